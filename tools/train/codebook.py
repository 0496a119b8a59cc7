"""The codebook's own training: k-means to start with, moving averages and revival of unused codes from then on."""
import torch
import torch.nn.functional as F


class CodebookTrainer:
    def __init__(self, quantizer):
        self.quantizer = quantizer
        size = quantizer.embedding_vqkd.num_embeddings
        width = quantizer.embedding_vqkd.embedding_dim + quantizer.embedding_vqgan.embedding_dim
        self.count = torch.zeros(size)
        self.sum = torch.zeros(size, width)

    def state_dict(self):
        return {"count": self.count, "sum": self.sum}

    def load_state_dict(self, state):
        self.count, self.sum = state["count"].clone(), state["sum"].clone()

    @torch.no_grad()
    def write(self, index, codes):
        split = self.quantizer.semantic_dim
        self.quantizer.embedding_vqkd.weight[index] = codes[:, :split]
        self.quantizer.embedding_vqgan.weight[index] = codes[:, split:]

    @torch.no_grad()
    def update(self, inputs, indices, decay):
        """Move every code to the moving average of the inputs that chose it, halves back to unit length."""
        self.count.mul_(decay).index_add_(0, indices, torch.ones(len(indices)))
        self.sum.mul_(decay).index_add_(0, indices, inputs)
        touched = torch.unique(indices)
        self.write(touched, self.quantizer.normalize(self.sum[touched] / self.count[touched, None]))

    @torch.no_grad()
    def revive(self, inputs, below=0.3, most=400):
        """Put codes that hardly anything chooses onto random inputs; returns how many were dead."""
        dead = (self.count < below).nonzero()[:, 0]
        dead_count = len(dead)
        dead = dead[torch.randperm(dead_count)[: min(most, len(inputs))]]
        if len(dead):
            codes = inputs[torch.randperm(len(inputs))[: len(dead)]]
            codes = self.quantizer.normalize(codes + 0.02 * torch.randn_like(codes))
            self.write(dead, codes)
            self.count[dead] = 2.0
            self.sum[dead] = 2.0 * codes
        return dead_count

    @torch.no_grad()
    def k_means(self, latents, rounds, log):
        """Start from the latents of a set of images, the residuals computed anew in each round."""
        pools = [
            F.adaptive_avg_pool2d(latents, scale).permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
            for scale in self.quantizer.scales
        ]
        pool = self.quantizer.normalize(torch.cat(pools))
        size = len(self.count)
        self.write(torch.arange(size), pool[torch.randperm(len(pool))[:size]])
        for turn in range(rounds):
            outputs = [self.quantizer(part) for part in latents.split(32)]
            inputs = torch.cat([z for _, zs, _ in outputs for z in zs])
            indices = torch.cat([i for _, _, ids in outputs for i in ids])
            rest = latents - torch.cat([sums[-1] for sums, _, _ in outputs])
            self.count.zero_()
            self.sum.zero_()
            self.update(inputs, indices, 0.0)
            split = self.quantizer.semantic_dim
            log(
                f"k-means {turn}: {int((self.count > 0).sum())} codes used, error"
                f" {float(rest[:, :split].norm(dim=1).mean()):.3f} semantic,"
                f" {float(rest[:, split:].norm(dim=1).mean()):.3f} pixel"
            )
            if turn < rounds - 1:
                self.revive(inputs, 0.5, size)
        self.count.mul_(0.1)
        self.sum.mul_(0.1)
