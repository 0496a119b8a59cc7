/** The few lines of protocol buffers that an ONNX file needs. A message is a list of fields, each a list of chunks. */

function varint(value) {
  let rest = BigInt.asUintN(64, BigInt(value));
  const bytes = [];
  do {
    bytes.push(Number(rest & 127n) | (rest > 127n ? 128 : 0));
    rest >>= 7n;
  } while (rest > 0n);
  return Buffer.from(bytes);
}

export const integer = (field, value) => [varint(field << 3), varint(value)];

export function float(field, value) {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return [varint((field << 3) | 5), bytes];
}

export const bytes = (field, value) => [varint((field << 3) | 2), varint(value.length), value];

export const string = (field, value) => bytes(field, Buffer.from(value));

export function message(field, parts) {
  const chunks = parts.flat();
  const length = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  return [varint((field << 3) | 2), varint(length), ...chunks];
}
