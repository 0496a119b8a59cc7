"""Train the small model: `python3 tools/train/train.py [--stages FILE] [--out FOLDER]`, after fetch.py and prepare.py.

The stages and their step counts are in stages.json; nothing depends on the clock. A checkpoint is written every few
minutes and picked up again by the same command.
"""
import argparse
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import losses
from codebook import CodebookTrainer
from data import Photos, held_out, to_tensor
from initialize import initialize
from model import Precision, ResBlock, TokenFlow, psnr
from paths import CACHE, HERE
from teacher import Teacher

SAVE_SECONDS = 420
REMEMBERED_CODES = 131072


class Threads:
    """Two threads while the machine is ours, one while others compute: waiting for a starved thread costs more."""

    def __init__(self, most):
        self.most, self.others = most, 0.0

    def adapt(self):
        with open("/proc/loadavg", encoding="ascii") as file:
            runnable = int(file.read().split()[3].split("/")[0]) - 1
        self.others = 0.9 * self.others + 0.1 * min(runnable, self.most)
        torch.set_num_threads(1 if self.others > 0.5 else self.most)


class Average:
    """The moving average of the weights; `with average:` puts it into the model for a while."""

    def __init__(self, model):
        self.model, self.steps = model, 0
        self.values = {name: p.detach().clone() for name, p in self.trained()}

    def trained(self):
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    @torch.no_grad()
    def update(self, decay):
        self.steps += 1
        decay = min(decay, (1 + self.steps) / (10 + self.steps))
        for name, p in self.trained():
            self.values[name].mul_(decay).add_(p, alpha=1 - decay)

    @torch.no_grad()
    def swap(self):
        for name, p in self.trained():
            held = p.detach().clone()
            p.copy_(self.values[name])
            self.values[name].copy_(held)

    def __enter__(self):
        self.swap()
        self.model.eval()

    def __exit__(self, *_):
        self.swap()
        self.model.train()


class Trainer:
    def __init__(self, stages, out):
        self.stages, self.out, self.threads = stages, out, Threads(torch.get_num_threads())
        os.makedirs(out, exist_ok=True)
        self.model = TokenFlow()
        initialize(self.model)
        self.grid = self.model.shape["scales"][-1]
        self.split = self.model.shape["semanticCodeDim"]
        self.quantizer = self.model.quantize
        self.codebook = CodebookTrainer(self.quantizer)
        self.average = Average(self.model)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, betas=(0.9, 0.97), weight_decay=0.01)
        self.teacher = Teacher(self.grid)
        self.photos = Photos(0)
        self.recent = torch.zeros(0, dtype=torch.int64)
        self.stage, self.step, self.notes = 0, 0, {}
        self.target_mean = self.target_std = None
        if os.path.exists(self.checkpoint):
            self.load()
        else:
            self.measure_targets()
        self.held = to_tensor(held_out()[1])
        self.held_target = torch.cat([self.target(part) for part in self.held.split(8)])

    @property
    def checkpoint(self):
        return os.path.join(self.out, "checkpoint.pt")

    def log(self, text):
        line = f"{time.strftime('%H:%M:%S')} {text}"
        print(line, flush=True)
        with open(os.path.join(self.out, "log.txt"), "a", encoding="utf8") as file:
            file.write(line + "\n")

    def measure_targets(self):
        features = torch.cat([self.teacher(self.photos.batch(32, 128)) for _ in range(16)]).flatten(0, 1)
        self.target_mean, self.target_std = features.mean(0), features.std(0)

    def target(self, x):
        return (self.teacher(x) - self.target_mean) / self.target_std

    def save(self):
        state = {
            "model": self.model.state_dict(),
            "average": self.average.values,
            "average_steps": self.average.steps,
            "optimizer": self.optimizer.state_dict(),
            "codebook": self.codebook.state_dict(),
            "recent": self.recent,
            "target_mean": self.target_mean,
            "target_std": self.target_std,
            "stage": self.stage,
            "step": self.step,
        }
        torch.save(state, self.checkpoint + ".new")
        os.replace(self.checkpoint + ".new", self.checkpoint)

    def load(self):
        state = torch.load(self.checkpoint, map_location="cpu")
        self.model.load_state_dict(state["model"])
        self.average.values, self.average.steps = state["average"], state["average_steps"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.codebook.load_state_dict(state["codebook"])
        self.recent = state["recent"]
        self.target_mean, self.target_std = state["target_mean"], state["target_std"]
        self.stage, self.step = state["stage"], state["step"]
        self.photos = Photos(1 + self.stage * 100000 + self.step)
        self.log(f"going on at stage {self.stage}, step {self.step}")

    def note(self, **values):
        for name, value in values.items():
            self.notes.setdefault(name, []).append(float(value))

    # ---- the two kinds of step

    def plain_step(self, stage):
        """Autoencoder without quantiser: noise and a bound on the norm stand in for it."""
        model, size = self.model, stage["crop"]
        x = self.photos.batch(stage["batch"], size)
        h = model.encode_pixels(x)
        norm = h.pow(2).sum(1).mean()
        y = model.decode_pixels(h + stage["noise"] * torch.randn_like(h))
        loss = losses.reconstruction(y, x) + 0.02 * F.relu(norm - stage["norm"])
        self.note(mse=((y - x) ** 2).mean(), norm=norm)
        every = stage.get("semanticEvery", 0)
        if every and self.step % every == 0:
            x = self.photos.batch(stage["semanticBatch"], 128)
            h = model.encode_semantic(x)
            lost = losses.semantic(model.decode_semantic(h + 0.1 * torch.randn_like(h)), self.target(x))
            loss = loss + lost + 0.02 * F.relu(h.pow(2).sum(1).mean() - stage["norm"])
            self.note(semantic=lost)
        return loss

    def quantised_step(self, stage):
        """The whole model; the gradient passes the quantiser straight through, on the sum over all scales."""
        model = self.model
        x = self.photos.batch(stage["batch"], 128)
        with torch.set_grad_enabled(stage["semanticWeight"] > 0):
            semantic_part = model.encode_semantic(x)
        h = torch.cat([semantic_part, model.encode_pixels(x)], 1)
        sums, inputs, indices = self.quantizer(h)
        f = sums[-1].clone()
        for item in range(len(x)):
            if np.random.rand() < stage["prefix"]:
                f[item] = sums[np.random.randint(len(sums) - 1)][item]
        through = h + (f - h).detach()
        rest = (h - sums[-1]) ** 2  # what the quantiser could not express
        pixel, semantic = rest[:, self.split :].sum(1).mean(), rest[:, : self.split].sum(1).mean()
        window = stage.get("window", self.grid)
        top, left = np.random.randint(0, self.grid - window + 1, 2)
        side = 128 // self.grid
        cut = through[:, :, top : top + window, left : left + window].contiguous()
        seen = x[:, :, side * top : side * (top + window), side * left : side * (left + window)]
        y = model.decode_pixels(cut)
        loss = losses.reconstruction(y, seen) + stage["commitment"] * (pixel + semantic)
        self.note(mse=((y - seen) ** 2).mean(), rest_pixel=pixel, rest_semantic=semantic)
        if stage["semanticWeight"] > 0:
            some = slice(0, max(1, int(len(x) * stage["semanticPart"])))
            lost = losses.semantic(model.decode_semantic(through[some]), self.target(x[some]))
            loss = loss + stage["semanticWeight"] * lost
            self.note(semantic=lost)
        inputs, indices = torch.cat(inputs), torch.cat(indices)
        self.codebook.update(inputs, indices, stage["codeDecay"])
        self.recent = torch.cat([self.recent, indices])[-REMEMBERED_CODES:]
        if self.step % 20 == 19:
            self.note(dead=self.codebook.revive(inputs))
        return loss

    # ---- measuring

    @torch.no_grad()
    def evaluate(self, quantised, every_scale=True):
        with self.average:
            scores, cosines, used = [], [], []
            for x, target in zip(self.held.split(8), self.held_target.split(8)):
                h = self.model.encode(x)
                sums = [h]
                if quantised:
                    sums, _, indices = self.quantizer(h)
                    used.append(torch.cat(indices))
                    sums = sums if every_scale else sums[-1:]
                scores.append(torch.stack([psnr(self.model.decode_pixels(f), x) for f in sums]))
                cosines.append(F.cosine_similarity(self.model.decode_semantic(sums[-1]), target, dim=-1).mean(1))
            by_scale = [round(float(value), 2) for value in torch.cat(scores, 1).mean(1)]
            text = f"held out: {by_scale[-1]:.2f} dB, semantic cosine {float(torch.cat(cosines).mean()):.3f}"
            if quantised:
                both = torch.cat([torch.cat(used), self.recent])
                text += f", {len(torch.unique(torch.cat(used)))} codes held out, {len(torch.unique(both))} with training"
                text += f", by scale {by_scale}" if every_scale else ""
            self.log(text)

    def start_codebook(self, stage):
        with self.average, torch.no_grad():
            latents = torch.cat([self.model.encode(self.photos.batch(16, 128)) for _ in range(stage["kMeansBatches"])])
        self.log(
            f"latent norms: {float(latents[:, : self.split].norm(dim=1).mean()):.2f} semantic,"
            f" {float(latents[:, self.split :].norm(dim=1).mean()):.2f} pixel"
        )
        self.codebook.k_means(latents, 6, self.log)

    # ---- the loop

    def learning_rate(self, stage):
        warm = min(1.0, (self.step + 1) / stage.get("warm", 30))
        falling = 0.5 * (1 + math.cos(math.pi * self.step / stage["steps"]))
        return warm * (stage["lrEnd"] + (stage["lr"] - stage["lrEnd"]) * falling)

    def run_stage(self, stage):
        quantised = stage["kind"] == "quantised"
        ResBlock.skeleton = stage.get("skeleton", False)
        if self.step == 0:
            self.log(f"stage {self.stage}: {json.dumps(stage)}")
            if stage.get("kMeansBatches"):
                self.start_codebook(stage)
                self.evaluate(True)
        saved, since, cpu = time.time(), time.time(), time.process_time()
        while self.step < stage["steps"]:
            self.threads.adapt()
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(stage)
            loss = self.quantised_step(stage) if quantised else self.plain_step(stage)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.note(gradient=nn.utils.clip_grad_norm_(self.parameters, 1.0))
            self.optimizer.step()
            self.average.update(stage["average"])
            self.step += 1
            if self.step % 50 == 0:
                means = {name: round(float(np.mean(values)), 3) for name, values in self.notes.items()}
                training = 10 * math.log10(4 / np.mean(self.notes["mse"]))
                speed = 50 / (time.time() - since)
                cores = (time.process_time() - cpu) / (time.time() - since)
                self.log(f"{self.stage}/{self.step} {training:.2f} dB, {speed:.2f} steps/s on {cores:.2f} cores, {means}")
                self.notes, since, cpu = {}, time.time(), time.process_time()
            if time.time() - saved > SAVE_SECONDS:
                self.evaluate(quantised, every_scale=False)
                self.save()
                saved = since = time.time()
                cpu = time.process_time()
        self.evaluate(quantised)
        self.stage, self.step, self.notes = self.stage + 1, 0, {}
        self.save()

    def run(self):
        self.model.train()
        while self.stage < len(self.stages):
            self.run_stage(self.stages[self.stage])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--stages", default=os.path.join(HERE, "stages.json"))
    parser.add_argument("--out", default=os.path.join(CACHE, "run"))
    parser.add_argument("--float32", action="store_true", help="no bfloat16 products")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    np.random.seed(0)
    Precision.bfloat16 = not arguments.float32
    with open(arguments.stages, encoding="utf8") as file:
        stages = json.load(file)["stages"]
    Trainer(stages, arguments.out).run()


if __name__ == "__main__":
    main()
