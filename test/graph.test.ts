import assert from 'node:assert/strict';
import { GraphBuilder } from '../lib/graph/builder.js';
import { attentionBlock } from '../lib/graph/modules/attention-block.js';
import { downsample, upsample } from '../lib/graph/modules/resample.js';
import { resnetBlock } from '../lib/graph/modules/resnet-block.js';

describe('GraphBuilder', () => {
  const groups = () => 4;

  it('infers the shapes of convolutions, paddings, strides and upsampling', () => {
    const graph = new GraphBuilder(2);
    const x = graph.input('x', [16, 12, 8]);
    assert.deepEqual(graph.conv2d(x, 'a', { out: 5, kernel: 3, padding: 1 }).shape, [2, 16, 12, 5]);
    assert.deepEqual(graph.conv2d(x, 'b', { out: 5, kernel: 7, stride: 7 }).shape, [2, 2, 1, 5]);
    assert.deepEqual(downsample(graph, 'c', x).shape, [2, 8, 6, 8]);
    assert.deepEqual(upsample(graph, 'd', x).shape, [2, 32, 24, 8]);
  });

  it('records every weight with the shape it must have', () => {
    const graph = new GraphBuilder(1);
    const x = graph.input('x', [4, 4, 8]);
    const h = resnetBlock(graph, 'res', x, 12, groups);
    graph.output('y', attentionBlock(graph, 'attn', h, groups));
    const { weights } = graph.build();
    assert.deepEqual(Object.fromEntries(weights), {
      'res.norm1.weight': [8],
      'res.norm1.bias': [8],
      'res.conv1.weight': [12, 8, 3, 3],
      'res.conv1.bias': [12],
      'res.norm2.weight': [12],
      'res.norm2.bias': [12],
      'res.nin_shortcut.weight': [12, 8, 1, 1],
      'res.nin_shortcut.bias': [12],
      'res.conv2.weight': [12, 12, 3, 3],
      'res.conv2.bias': [12],
      'attn.norm.weight': [12],
      'attn.norm.bias': [12],
      ...Object.fromEntries(
        ['q', 'k', 'v', 'proj_out'].flatMap((part) => [
          [`attn.${part}.weight`, [12, 12, 1, 1]],
          [`attn.${part}.bias`, [12]],
        ]),
      ),
    });
  });

  it('refuses what does not fit, and says what would', () => {
    const graph = new GraphBuilder(1);
    const x = graph.input('x', [4, 4, 8]);
    const fails = (build: () => unknown, message: RegExp) =>
      assert.throws(build, (error: Error & { code: string }) => {
        assert.equal(error.code, 'ERR_TOKENFLOW_INVALID_ARGUMENT');
        assert.match(error.message, message);
        return true;
      });
    fails(() => new GraphBuilder(0), /an integer over 0 for the batch but received 0/);
    fails(() => graph.input('x', [1]), /distinct names for inputs but received 'x' twice/);
    fails(
      () => graph.conv2d(x, 'c', { out: 8, kernel: 5 }),
      /at least 5x5 for c but received \[1, 4, 4, 8\]/,
    );
    fails(
      () => graph.conv2d(x, 'c', { out: 9, kernel: 1, residual: x }),
      /\[1, 4, 4, 9\] for the residual of c but received \[1, 4, 4, 8\]/,
    );
    fails(
      () => graph.groupNorm(x, 'n', { groups: 3, epsilon: 1e-6, swish: true }),
      /groups that divides 8 channels for n but received 3/,
    );
    fails(() => graph.attention(graph.reshape(x, [16, 8]), 1), /q, k and v/);
    fails(() => graph.reshape(x, [16, 9]), /the 128 elements of \[1, 4, 4, 8\]/);
    fails(() => graph.sliceChannels(x, 4, 5), /a range within 8 for sliceChannels but received 4..9/);
    fails(() => graph.pixelsToFloat(x), /u8 of 4 axes for pixelsToFloat but received f32/);
    fails(
      () => graph.layerNorm(new GraphBuilder(1).input('x', [4, 4, 8]), 'n', 1e-5),
      /a value of this graph/,
    );
    fails(
      () => graph.multiscaleEncode(x, new Map([['e', [16, 7]]]), [1, 4]),
      /codebooks that are 8 wide together for multiscaleEncode but received \[16, 7\]/,
    );
    fails(
      () => graph.multiscaleEncode(x, new Map([['e', [16, 8]]]), [1, 3]),
      /a 3x3 map, the last scale for multiscaleEncode/,
    );
    graph.linear(x, { weight: 'w', out: 3 });
    fails(() => graph.linear(x, { weight: 'w', out: 4 }), /\[3, 8\] as before for w but received \[4, 8\]/);
    fails(() => graph.linear(x, { weight: ['p', 'q'], out: 5 }), /equal shares of 5 rows/);
    fails(() => graph.build(), /at least one for outputs but received none/);
  });
});
