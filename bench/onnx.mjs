/**
 * A graph of ours as an ONNX model, so that onnxruntime runs the same thing: channels first, group norms in the form in
 * which PyTorch exports them, attention as onnxruntime's own fused op. Ops of the quantiser are left out: a model begins
 * at the values given as inputs and ends at those given as outputs.
 */
import { bytes, float, integer, message, string } from './protobuf.mjs';

export const FLOAT = 1;
export const INT64 = 7;

export function tensor(name, dims, type, data) {
  return [
    ...dims.map((dim) => integer(1, dim)),
    integer(2, type),
    string(8, name),
    bytes(9, Buffer.from(data.buffer, data.byteOffset, data.byteLength)),
  ];
}

export function attribute([name, value]) {
  const kinds = {
    string: () => [string(4, value), integer(20, 3)],
    bigint: () => [integer(3, value), integer(20, 2)],
    number: () => [float(2, value), integer(20, 1)],
    object: () => [...value.map((item) => integer(8, item)), integer(20, 7)],
  };
  return message(5, [string(1, name), ...kinds[typeof value]()]);
}

export function valueInfo(name, dims, type = FLOAT) {
  const shape = dims.map((dim) => message(1, [integer(1, dim)]));
  return [string(1, name), message(2, [message(1, [integer(1, type), message(2, shape)])])];
}

/** The bytes of a model of one graph, given as its fields. */
export function modelBytes(graphFields) {
  const model = [
    integer(1, 8),
    message(8, [string(1, ''), integer(2, 17)]),
    message(8, [string(1, 'com.microsoft'), integer(2, 1)]),
    message(7, graphFields),
  ];
  return Buffer.concat(model.flat());
}

const elements = (shape) => shape.reduce((a, b) => a * b, 1);

class Writer {
  nodes = [];
  initializers = new Map();
  #count = 0;

  /** Adds a node with one result and returns its name. Attributes: bigint, number (a float), string or integers. */
  node(type, inputs, attributes = {}, domain = '') {
    const result = `v${this.#count++}`;
    this.nodes.push(
      message(1, [
        ...inputs.map((input) => string(1, input)),
        string(2, result),
        string(4, type),
        ...Object.entries(attributes).map(attribute),
        ...(domain ? [string(7, domain)] : []),
      ]),
    );
    return result;
  }

  constant(name, dims, data, type = FLOAT) {
    if (!this.initializers.has(name)) {
      this.initializers.set(name, message(5, tensor(name, dims, type, data)));
    }
    return name;
  }

  integers(values) {
    return this.constant(`i64:${values}`, [values.length], BigInt64Array.from(values, BigInt), INT64);
  }

  scalar(value) {
    return this.constant(`f32:${value}`, [], Float32Array.of(value));
  }
}

/** A value of our graph in the forms the model has it in: [B,C,H,W] and [B,L,C]; made from each other on demand. */
class Value {
  constructor(writer, { map, tokens, grid, batch, channels }) {
    Object.assign(this, { writer, grid, batch, channels });
    this.forms = { map, tokens };
  }

  asMap() {
    const { writer, grid, batch, channels, forms } = this;
    if (forms.map === undefined) {
      const last = writer.node('Reshape', [forms.tokens, writer.integers([batch, ...grid, channels])]);
      forms.map = writer.node('Transpose', [last], { perm: [0, 3, 1, 2] });
    }
    return forms.map;
  }

  asTokens() {
    const { writer, batch, channels, forms } = this;
    if (forms.tokens === undefined) {
      const last = writer.node('Transpose', [forms.map], { perm: [0, 2, 3, 1] });
      forms.tokens = writer.node('Reshape', [last, writer.integers([batch, -1, channels])]);
    }
    return forms.tokens;
  }
}

/**
 * @param graph   of GraphBuilder
 * @param weights by name: Float32Array
 * @param inputs  names of the model's inputs to ids of values, maps
 * @param outputs names of the model's outputs to ids of values, given as [B,L,C]
 * @returns the bytes of the model
 */
export function toOnnx(graph, weights, inputs, outputs) {
  const writer = new Writer();
  const values = new Map();
  const shapeOf = (id) => graph.values[id].shape;
  const keep = (id, forms) => {
    const shape = shapeOf(id);
    const grid = shape.length === 4 ? shape.slice(1, 3) : (forms.grid ?? []);
    values.set(id, new Value(writer, { ...forms, grid, batch: shape[0], channels: shape.at(-1) }));
  };
  const weight = (name, dims) => writer.constant(name, dims, weights.get(name));
  const joined = (reference, count) => {
    const names = typeof reference === 'string' ? [reference] : reference;
    const data = new Float32Array(count);
    names.forEach((name, i) => {
      if (name !== null) data.set(weights.get(name), (i * count) / names.length);
    });
    return data;
  };
  const activate = (x, activation = 'none') => {
    const forms = {
      none: () => x,
      tanh: () => writer.node('Tanh', [x]),
      swish: () => writer.node('Mul', [x, writer.node('Sigmoid', [x])]),
      quick_gelu: () =>
        writer.node('Mul', [x, writer.node('Sigmoid', [writer.node('Mul', [x, writer.scalar(1.702)])])]),
    };
    return forms[activation]();
  };

  const emit = {
    conv2d(op) {
      const [, height, width, channels] = shapeOf(op.x);
      const out = shapeOf(op.y)[3];
      let x = values.get(op.x).asMap();
      if (op.upsample === 2) {
        const sizes = writer.integers([shapeOf(op.x)[0], channels, 2 * height, 2 * width]);
        x = writer.node('Resize', [x, '', '', sizes], {
          mode: 'nearest',
          coordinate_transformation_mode: 'asymmetric',
          nearest_mode: 'floor',
        });
      }
      const parameters = [weight(op.weight, [out, channels, op.kernel, op.kernel])];
      if (op.bias) parameters.push(weight(op.bias, [out]));
      let y = writer.node('Conv', [x, ...parameters], {
        kernel_shape: [op.kernel, op.kernel],
        strides: [op.stride, op.stride],
        pads: [...op.padding],
      });
      y = activate(y, op.activation);
      if (op.residual !== undefined) y = writer.node('Add', [y, values.get(op.residual).asMap()]);
      keep(op.y, { map: y });
    },
    linear(op) {
      const x = values.get(op.x);
      const channels = shapeOf(op.x).at(-1);
      const out = shapeOf(op.y).at(-1);
      const name = `linear:${op.weight}`;
      const data = joined(op.weight, out * channels);
      const bias = op.bias && writer.constant(`bias:${op.bias}`, [out], joined(op.bias, out));
      if (shapeOf(op.x).length === 4) {
        const parameters = [writer.constant(name, [out, channels, 1, 1], data), ...(bias ? [bias] : [])];
        let y = activate(writer.node('Conv', [x.asMap(), ...parameters]), op.activation);
        if (op.residual !== undefined) y = writer.node('Add', [y, values.get(op.residual).asMap()]);
        return keep(op.y, { map: y });
      }
      const turned = new Float32Array(data.length);
      for (let o = 0; o < out; o++) {
        for (let c = 0; c < channels; c++) turned[c * out + o] = data[o * channels + c];
      }
      let y = writer.node('MatMul', [x.asTokens(), writer.constant(name, [channels, out], turned)]);
      if (bias) y = writer.node('Add', [y, bias]);
      y = activate(y, op.activation);
      if (op.residual !== undefined) y = writer.node('Add', [y, values.get(op.residual).asTokens()]);
      keep(op.y, { tokens: y, grid: x.grid });
    },
    group_norm(op) {
      const x = values.get(op.x);
      const { batch, channels, grid } = x;
      const flat = writer.node('Reshape', [x.asMap(), writer.integers([batch, op.groups, -1])]);
      const ones = writer.constant(`ones:${op.groups}`, [op.groups], new Float32Array(op.groups).fill(1));
      const zeros = writer.constant(`zeros:${op.groups}`, [op.groups], new Float32Array(op.groups));
      const normed = writer.node('InstanceNormalization', [flat, ones, zeros], { epsilon: op.epsilon });
      let y = writer.node('Reshape', [normed, writer.integers([batch, channels, ...grid])]);
      y = writer.node('Mul', [y, weight(op.weight, [channels, 1, 1])]);
      y = writer.node('Add', [y, weight(op.bias, [channels, 1, 1])]);
      keep(op.y, { map: op.swish ? activate(y, 'swish') : y, grid });
    },
    layer_norm(op) {
      const channels = shapeOf(op.x).at(-1);
      const parameters = [weight(op.weight, [channels]), weight(op.bias, [channels])];
      const tokens = writer.node('LayerNormalization', [values.get(op.x).asTokens(), ...parameters], {
        axis: -1n,
        epsilon: op.epsilon,
      });
      keep(op.y, { tokens, grid: values.get(op.x).grid });
    },
    attention(op) {
      const channels = shapeOf(op.y)[2];
      const x = values.get(op.x).asTokens();
      const part = (i) =>
        writer.node('Slice', [
          x,
          writer.integers([i * channels]),
          writer.integers([(i + 1) * channels]),
          writer.integers([2]),
        ]);
      const attributes = { num_heads: BigInt(op.heads), scale: op.scale };
      const parts = [part(0), part(1), part(2)];
      const tokens = writer.node('MultiHeadAttention', parts, attributes, 'com.microsoft');
      keep(op.y, { tokens, grid: values.get(op.x).grid });
    },
    prepend_token(op) {
      const [batch, , channels] = shapeOf(op.x);
      const data = new Float32Array(batch * channels);
      for (let b = 0; b < batch; b++) data.set(weights.get(op.token), b * channels);
      const token = writer.constant(`token:${op.token}`, [batch, 1, channels], data);
      keep(op.y, { tokens: writer.node('Concat', [token, values.get(op.x).asTokens()], { axis: 1n }) });
    },
    add_table(op) {
      const table = weight(op.table, shapeOf(op.x).slice(1));
      keep(op.y, { tokens: writer.node('Add', [values.get(op.x).asTokens(), table]) });
    },
    slice_tokens(op) {
      const range = [[op.start], [op.start + op.count], [1]].map((list) => writer.integers(list));
      keep(op.y, { tokens: writer.node('Slice', [values.get(op.x).asTokens(), ...range]) });
    },
    slice_channels(op) {
      const range = [[op.start], [op.start + op.count], [1]].map((list) => writer.integers(list));
      keep(op.y, { map: writer.node('Slice', [values.get(op.x).asMap(), ...range]) });
    },
    reshape(op) {
      const { forms, grid } = values.get(op.x);
      keep(op.y, { ...forms, grid });
    },
  };

  // What the outputs need, back to the inputs.
  const needed = new Set(Object.values(outputs));
  const given = new Set(Object.values(inputs));
  const used = [];
  for (const op of [...graph.ops].reverse()) {
    if (op.y === undefined || !needed.has(op.y) || given.has(op.y)) continue;
    used.unshift(op);
    for (const x of op.xs ?? [op.x, op.residual]) if (x !== undefined) needed.add(x);
  }
  for (const [name, id] of Object.entries(inputs)) keep(id, { map: name });
  for (const op of used) emit[op.op](op);
  const results = Object.entries(outputs).map(([name, id]) => {
    const shape = [shapeOf(id)[0], elements(shapeOf(id).slice(1, -1)), shapeOf(id).at(-1)];
    const last = values.get(id).asTokens();
    writer.nodes.push(message(1, [string(1, last), string(2, name), string(4, 'Identity')]));
    return message(12, valueInfo(name, shape));
  });
  const graphFields = [
    ...writer.nodes,
    string(2, 'tokenflow'),
    ...writer.initializers.values(),
    ...Object.entries(inputs).map(([name, id]) => {
      const [batch, height, width, channels] = shapeOf(id);
      return message(11, valueInfo(name, [batch, channels, height, width]));
    }),
    ...results,
  ];
  return modelBytes(graphFields);
}
