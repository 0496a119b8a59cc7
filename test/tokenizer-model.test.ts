import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { packageRoot } from '../lib/native.js';
import { checkConfig, type TokenFlowConfig, tokenCount, VARIANTS } from '../lib/tokenizer/config.js';
import { checkManifest, manifest } from '../lib/tokenizer/manifest.js';
import { readModel } from '../lib/tokenizer/model.js';

type Shapes = Map<string, readonly number[]>;

function shapesOf(name: string): Shapes {
  const file = path.join(packageRoot(), 'test', 'golden', 'manifests', `${name}.json`);
  return new Map(Object.entries(JSON.parse(readFileSync(file, 'utf8'))));
}

const sourceOf = (shapes: Shapes) => ({
  path: 'a.pt',
  tensors: new Map([...shapes].map(([name, shape]) => [name, { shape }])),
});

describe('a model read off a checkpoint', () => {
  it('finds the released models without a configuration', () => {
    const clipb = readModel(shapesOf('clipb'));
    assert.equal(clipb.imageSize, 256);
    assert.equal(tokenCount(clipb.scales), 817);
    assert.deepEqual(
      [...clipb.derived.keys()],
      ['encoder_vqkd.positional_embedding@16x16', 'decoder_vqkd.pos_embed@16x16'],
    );
    assert.deepEqual(
      clipb.pixelDecoder.levels.map((level) => [
        level.channels,
        level.blocks,
        level.attention,
        level.resample,
      ]),
      [
        [512, 3, true, true],
        [256, 3, false, true],
        [256, 3, false, true],
        [128, 3, false, true],
        [128, 3, false, false],
      ],
    );
    const enhanced = readModel(shapesOf('clipb_enhanced'));
    assert.deepEqual(
      enhanced.pixelDecoder.levels.map((level) => [level.channels, level.blocks]),
      [
        [1024, 5],
        [512, 5],
        [512, 5],
        [256, 5],
        [256, 5],
      ],
    );
    const siglip = readModel(shapesOf('siglip'));
    assert.equal(siglip.semanticEncoder.layers, 26);
    assert.equal(siglip.pixelSize, 432);
    assert.equal(tokenCount(siglip.scales), 2227);
  });

  it('at its trained size derives nothing', () => {
    const model = readModel(shapesOf('clipb'), VARIANTS.clipb);
    assert.equal(model.derived.size, 0);
    assert.equal(tokenCount(model.scales), 561);
  });

  for (const [name, unused] of [
    ['clipb', ['encoder_vqkd.proj', 'quantize.codebook_used']],
    ['clipb_enhanced', ['encoder_vqkd.proj', 'quantize.codebook_used']],
    [
      'siglip',
      /^encoder_vqkd\.vision_model\.(encoder\.layers\.26|post_layernorm|head)\.|^quantize\.codebook_used$/,
    ],
  ] as const) {
    it(`${name}: the graphs name exactly the tensors of the official file that are used`, () => {
      const shapes = shapesOf(name);
      const model = readModel(shapes);
      const expected = manifest(model);
      for (const [tensor, shape] of expected) assert.deepEqual(shapes.get(tensor), shape, tensor);
      const extra = [...shapes.keys()].filter((tensor) => !expected.has(tensor));
      if (unused instanceof RegExp) for (const tensor of extra) assert.match(tensor, unused);
      else assert.deepEqual(extra.sort(), [...unused].sort());
      checkManifest(model, sourceOf(shapes));
    });
  }

  it('names what is missing, misshapen and extra', () => {
    const shapes = shapesOf('clipb');
    shapes.delete('encoder.mid.0.norm1.weight');
    shapes.set('decoder.conv_in.bias', [511]);
    shapes.set('lpips.lin0.weight', [1, 64, 1, 1]);
    assert.throws(
      () => checkManifest(readModel(shapes), sourceOf(shapes)),
      (error: Error & { code: string }) => {
        assert.equal(error.code, 'ERR_TOKENFLOW_CHECKPOINT');
        assert.match(error.message, /a\.pt/);
        assert.match(error.message, /'encoder\.mid\.0\.norm1\.weight' \[512\]/);
        assert.match(error.message, /'decoder\.conv_in\.bias' expected \[512\], found \[511\]/);
        assert.match(error.message, /'lpips\.lin0\.weight'/);
        return true;
      },
    );
  });

  it('says what it is that is no TokenFlow checkpoint', () => {
    assert.throws(
      () => readModel(new Map([['conv1.weight', [64, 3, 7, 7]]])),
      /Not a TokenFlow checkpoint: .*'conv1\.weight'$/,
    );
    const wrapped = [...shapesOf('clipb')].map(([name, shape]) => [`module.${name}`, shape] as const);
    assert.throws(
      () => readModel(new Map(wrapped)),
      /; save them without 'module\.' \(model\.module\.state_dict/,
    );
    assert.throws(() => readModel(new Map()), /Not a TokenFlow checkpoint: .*no tensor at all/);
  });

  it('asks for a configuration where shapes and names are not enough', () => {
    const shapes = shapesOf('clipb');
    shapes.set('encoder_vqkd.positional_embedding', [65, 768]);
    assert.throws(() => readModel(shapes), /config\.json/);
  });

  it('refuses a configuration that the checkpoint contradicts', () => {
    const shapes = shapesOf('clipb');
    const refused = (change: Partial<TokenFlowConfig>, message: RegExp) =>
      assert.throws(() => readModel(shapes, { ...VARIANTS.clipb, ...change }), message);
    refused({ teacher: 'siglip_384' }, /teacher 'siglip_384' but the checkpoint holds a CLIP encoder/);
    refused({ codebookSize: 16384 }, /codebookSize 16384 but the checkpoint's codebooks have 32768/);
    refused({ imageSize: 256 }, /16x16 patches of 16 px, but the last scale is 14/);
    refused({ trainedImageSize: 256 }, /trainedImageSize 256 but the position table is for 224 px/);
    const groups = { ...VARIANTS.clipb, groupNorm: { groups: 48 } };
    assert.throws(() => manifest(readModel(shapes, groups)), /groups that divides 128 channels/);
    const heads = { ...VARIANTS.clipb, semanticEncoderHeads: 7 };
    assert.throws(() => manifest(readModel(shapes, heads)), /a width that 7 heads divide/);
    assert.throws(
      () => readModel(shapesOf('siglip'), { ...VARIANTS.siglip, imageSize: 400, scales: [28] }),
      /never resized/,
    );
  });
});

describe('a configuration', () => {
  it('is checked field by field', () => {
    const base = { ...VARIANTS.clipb };
    const refused = (change: object, message: RegExp) =>
      assert.throws(
        () => checkConfig({ ...base, ...change }, 'config.json'),
        (error: Error & { code: string }) => {
          assert.equal(error.code, 'ERR_TOKENFLOW_FORMAT');
          assert.match(error.message, message);
          return true;
        },
      );
    refused(
      { teacher: 'vitamin_xlarge_256' },
      /'clipb_224' or 'siglip_384' for 'teacher' but received 'vitamin_xlarge_256'/,
    );
    refused({ scales: [1, 2, 2] }, /rising whole numbers for 'scales'/);
    refused({ scales: [] }, /rising whole numbers/);
    refused({ imageSize: 0 }, /'imageSize' but received 0/);
    refused({ semanticEncoderHeads: undefined }, /'semanticEncoderHeads' but received undefined/);
    refused({ groupNorm: { groups: -1 } }, /'groupNorm'/);
    assert.throws(() => checkConfig([], 'c'), /an object but received an array of 0/);
    const { outputSize, ...rest } = base;
    assert.equal(outputSize, 224);
    assert.throws(() => checkConfig({ ...rest, outputsize: 3 }, 'c'), /did you mean 'outputSize'/);
    assert.deepEqual(checkConfig({ ...base, name: 'mine' }, 'c'), { ...base, name: 'mine' });
  });
});
