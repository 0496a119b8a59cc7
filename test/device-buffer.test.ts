/** DeviceBuffer where there is no card: on the CPU it is plain memory, so that the same code runs everywhere. */
import assert from 'node:assert/strict';
import { Codebook, DeviceBuffer, DualCodebook, TokenFlowError } from '../lib/index.js';

const corners = Float32Array.of(0, 0, 1, 0, 0, 1, 1, 1);
const queries = Float32Array.of(0.1, 0.9, 2, 2, 0.4, 0.1);

/** An error of this code and message. */
function refused(message: RegExp, code = 'ERR_TOKENFLOW_INVALID_ARGUMENT') {
  return (error: unknown) => {
    assert.ok(error instanceof TokenFlowError);
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  };
}

describe('DeviceBuffer on the CPU', () => {
  const cpu = { device: 'cpu' } as const;

  it('keeps what is written to it, whatever becomes of the array', async () => {
    const array = Int32Array.of(1, -2, 3);
    const buffer = await DeviceBuffer.from(array, cpu);
    array.fill(9);
    assert.deepEqual(await buffer.read(), Int32Array.of(1, -2, 3));
    await buffer.write(array);
    assert.deepEqual(buffer.readSync(), array);
    buffer.writeSync(new Int32Array(new SharedArrayBuffer(12)));
    assert.deepEqual(buffer.readSync(), new Int32Array(3));
    assert.deepEqual(buffer.toJSON(), {
      type: 'DeviceBuffer',
      device: 'cpu',
      dtype: 'i32',
      length: 3,
      byteLength: 12,
    });
    const half = DeviceBuffer.fromSync(Uint16Array.of(0x3c00, 0xbc00), { ...cpu, dtype: 'f16' });
    assert.deepEqual([half.byteLength, half.readSync()], [4, Uint16Array.of(0x3c00, 0xbc00)]);
    const empty = await DeviceBuffer.from(new Float32Array(0), cpu);
    assert.equal((await empty.read()).length, 0);
  });

  it('chains calls: queries in, indices and codes out', async () => {
    const codebook = new Codebook(corners, { dim: 2, ...cpu });
    const buffer = await DeviceBuffer.from(queries, { device: codebook.device as 'cpu' });
    const expected = codebook.nearestSync(queries, { k: 2, margin: true });
    const found = await codebook.nearest(buffer, { k: 2, margin: true, result: 'device' });
    assert.deepEqual(await found.indices.read(), expected.indices);
    assert.deepEqual(await found.distances.read(), expected.distances);
    assert.deepEqual(await found.margins?.read(), expected.margins);
    assert.deepEqual(await codebook.nearest(buffer), codebook.nearestSync(queries));
    const quantized = codebook.quantizeSync(buffer, { result: 'device' });
    const { counts, codes, indices } = codebook.quantizeSync(queries);
    assert.deepEqual(quantized.counts.readSync(), counts);
    const rows = await codebook.lookup(quantized.indices);
    assert.deepEqual(await rows.read(), codes);
    assert.deepEqual(quantized.indices.readSync(), indices);
    const half = DeviceBuffer.fromSync(Uint16Array.of(0x3c00, 0), { ...cpu, dtype: 'f16' });
    assert.deepEqual((await codebook.nearest(half)).indices, Int32Array.of(1));
    const dual = new DualCodebook([
      { vectors: corners, dim: 2 },
      { vectors: corners, dim: 2 },
    ]);
    const both = DeviceBuffer.fromSync(Float32Array.of(0, 0, 3, 3), { device: dual.device as 'cpu' });
    const parts = await dual.nearest(both, { weights: [2, 1], partDistances: true, result: 'device' });
    assert.deepEqual(await parts.partDistances?.[1].read(), Float32Array.of(8));
  });

  it('completes calls that were under way when it was disposed of, and refuses later ones', async () => {
    const codebook = new Codebook(corners, { dim: 2, ...cpu });
    const buffer = await DeviceBuffer.from(queries, cpu);
    const pending = [codebook.nearest(buffer), codebook.nearest(buffer, { result: 'device' }), buffer.read()];
    assert.equal(buffer.disposed, false);
    buffer.dispose();
    buffer[Symbol.dispose]();
    assert.equal(buffer.disposed, true);
    await Promise.all(pending);
    const gone = refused(/This DeviceBuffer was disposed; make a new one/, 'ERR_TOKENFLOW_DISPOSED');
    await assert.rejects(buffer.read(), gone);
    await assert.rejects(buffer.write(queries), gone);
    await assert.rejects(codebook.nearest(buffer), gone);
    assert.throws(() => buffer.readSync(), gone);
    assert.throws(() => codebook.quantizeSync(buffer), gone);
  });

  it('says what is wrong with bad input', async () => {
    const codebook = new Codebook(corners, { dim: 2, ...cpu });
    const floats = DeviceBuffer.fromSync(queries, cpu);
    const integers = DeviceBuffer.fromSync(Int32Array.of(0, 5), cpu);
    const odd = DeviceBuffer.fromSync(new Float32Array(3), cpu);
    await assert.rejects(
      codebook.nearest(odd),
      refused(/rows of 2\) for queries but received a DeviceBuffer of 3/),
    );
    await assert.rejects(
      codebook.nearest(integers as never),
      refused(/f32 or f16 or bf16 for queries.*of i32/),
    );
    await assert.rejects(
      codebook.lookup(floats as unknown as DeviceBuffer<'i32'>),
      refused(/a DeviceBuffer of i32 for indices.*of f32/),
    );
    await assert.rejects(codebook.lookup(integers), refused(/from 0 to 3 but received 5 at position 1/));
    await assert.rejects(
      codebook.nearest(floats, { format: 'bf16' }),
      refused(/'f32', which the DeviceBuffer holds/),
    );
    await assert.rejects(
      codebook.nearest(floats, { result: 'gpu' } as never),
      refused(/'host' or 'device' for result/),
    );
    const out = { indices: new Int32Array(3) };
    await assert.rejects(codebook.nearest(floats, { result: 'device', out }), refused(/result is 'device'/));
    await assert.rejects(floats.write(new Float32Array(5)), refused(/Float32Array of 6 elements/));
    await assert.rejects(
      floats.write(new Int32Array(6) as never),
      refused(/a Float32Array, as the buffer holds f32/),
    );
    await assert.rejects(DeviceBuffer.from([1, 2] as never, cpu), refused(/a Float32Array, an Int32Array/));
    await assert.rejects(
      DeviceBuffer.from(queries, { ...cpu, dtype: 'i32' } as never),
      refused(/'f32' for dtype/),
    );
    await assert.rejects(
      DeviceBuffer.from(new Uint16Array(2) as never, cpu),
      refused(/'f16' or 'bf16' for dtype/),
    );
    await assert.rejects(
      DeviceBuffer.from(queries, { ...cpu, devise: 1 } as never),
      refused(/did you mean 'device'/),
    );
    await assert.rejects(
      DeviceBuffer.from(queries, { device: 'tpu' as never }),
      refused(/'auto', 'cpu', 'cuda' or/),
    );
    await assert.rejects(
      DeviceBuffer.from(queries, { device: 'cuda:99' }),
      refused(/Device 'cuda:99' is not available/, 'ERR_TOKENFLOW_BACKEND_UNAVAILABLE'),
    );
    const transferred = new Float32Array(6);
    structuredClone(transferred, { transfer: [transferred.buffer] });
    await assert.rejects(floats.write(transferred), refused(/transferred or resized/));
    assert.throws(() => codebook.nearestSync([floats] as never), refused(/Float32Array for queries/));
  });
});
