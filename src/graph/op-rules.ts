/**
 * One rule per op: which inputs it takes, and the shape and element type of its result. The builder asks it when a node is made, the
 * verifier asks it again. Knows nothing of stages; which op may stand in which stage is in `verify.ts`.
 */
import { GraphError, type NodeIdentity } from './errors.ts';
import type {
  Dim,
  ElementType,
  GraphNode,
  HeadLayout,
  OpAttributes,
  OpName,
  RopeSpec,
  Shape,
} from './ir.ts';
import { countRows } from './weight-ref.ts';

/** Values per block of q8 rows. */
export const Q8_BLOCK_SIZE = 32;

export interface ValueType {
  readonly shape: Shape;
  readonly type: ElementType;
}

/** Inputs of one node under check, read by position with the checks that every rule needs. */
class Inputs {
  readonly node: NodeIdentity;
  readonly #inputs: readonly GraphNode[];

  constructor(node: NodeIdentity, inputs: readonly GraphNode[]) {
    this.node = node;
    this.#inputs = inputs;
  }

  fail(message: string): never {
    throw new GraphError(message, this.node);
  }

  expectNames(names: readonly string[]): void {
    if (this.#inputs.length !== names.length) {
      this.fail(`takes ${names.length} inputs (${names.join(', ')}), got ${this.#inputs.length}`);
    }
  }

  at(index: number): GraphNode {
    return this.#inputs[index] ?? this.fail(`input ${index} is missing`);
  }

  all(): readonly GraphNode[] {
    return this.#inputs;
  }

  /** An activation `[T or R, width]`. */
  rows(index: number, types: readonly ElementType[] = ['f32']): { rows: Dim; width: number } {
    const input = this.at(index);
    const [rows, width] = input.shape;
    if (
      input.shape.length !== 2 ||
      typeof width !== 'number' ||
      typeof rows === 'number' ||
      rows === undefined ||
      !types.includes(input.type)
    ) {
      this.fail(
        `input ${index} must be ${types.join(' or ')} [T or R, width], got ${describe(input)}`,
      );
    }
    return { rows, width };
  }

  matrix(index: number): { rows: number; columns: number } {
    const input = this.at(index);
    const [rows, columns] = input.shape;
    if (
      !isWeightOp(input.op) ||
      typeof rows !== 'number' ||
      typeof columns !== 'number' ||
      input.shape.length !== 2
    ) {
      this.fail(`input ${index} must be a weight [out, in], got ${input.op} ${describe(input)}`);
    }
    return { rows, columns };
  }

  vector(index: number, length: number): void {
    const input = this.at(index);
    if (!isWeightOp(input.op) || input.shape.length !== 1 || input.shape[0] !== length) {
      this.fail(`input ${index} must be a weight [${length}], got ${input.op} ${describe(input)}`);
    }
  }

  indices(index: number, rows: Dim): void {
    const input = this.at(index);
    if (input.type !== 'i32' || input.shape.length !== 1 || input.shape[0] !== rows) {
      this.fail(`input ${index} must be i32 [${rows}], got ${describe(input)}`);
    }
  }

  sameAs(index: number, rows: Dim, width: number): void {
    const seen = this.rows(index);
    if (seen.rows !== rows || seen.width !== width) {
      this.fail(
        `input ${index} must be f32 [${rows}, ${width}], got [${seen.rows}, ${seen.width}]`,
      );
    }
  }

  q8Width(width: number): void {
    if (width % Q8_BLOCK_SIZE !== 0) {
      this.fail(`width ${width} is not a multiple of the q8 block size ${Q8_BLOCK_SIZE}`);
    }
  }

  positive(value: number, name: string): void {
    if (!Number.isInteger(value) || value <= 0)
      this.fail(`${name} must be a positive integer, got ${value}`);
  }

  heads({ numHeads, numKvHeads, headDim }: HeadLayout): void {
    this.positive(numHeads, 'numHeads');
    this.positive(numKvHeads, 'numKvHeads');
    this.positive(headDim, 'headDim');
    if (numHeads % numKvHeads !== 0) {
      this.fail(`numHeads ${numHeads} is not a multiple of numKvHeads ${numKvHeads}`);
    }
  }

  /** q [T, numHeads * headDim], k and v [T, numKvHeads * headDim] at inputs 0, 1, 2. */
  qkv(layout: HeadLayout): ValueType {
    this.heads(layout);
    const { rows } = this.rows(0);
    if (rows !== 'T') this.fail(`query must have one row per token, got ${describe(this.at(0))}`);
    this.sameAs(0, 'T', layout.numHeads * layout.headDim);
    this.sameAs(1, 'T', layout.numKvHeads * layout.headDim);
    this.sameAs(2, 'T', layout.numKvHeads * layout.headDim);
    return { shape: this.at(0).shape, type: 'f32' };
  }

  ropeSpec(rope: RopeSpec, headDim: number): void {
    this.positive(rope.rotaryDim, 'rotaryDim');
    if (rope.rotaryDim > headDim || rope.rotaryDim % 2 !== 0) {
      this.fail(`rotaryDim ${rope.rotaryDim} must be even and at most headDim ${headDim}`);
    }
    if (rope.frequencies.length !== rope.rotaryDim / 2) {
      this.fail(`rotaryDim ${rope.rotaryDim} needs ${rope.rotaryDim / 2} frequencies, \
got ${rope.frequencies.length}`);
    }
  }
}

type OpRule<Op extends OpName> = (inputs: Inputs, attrs: OpAttributes[Op]) => ValueType;

/** Two activations of one shape. */
const elementwisePair: OpRule<'mul'> = (inputs) => {
  inputs.expectNames(['a', 'b']);
  const { rows, width } = inputs.rows(0);
  inputs.sameAs(1, rows, width);
  return { shape: [rows, width], type: 'f32' };
};

const elementwiseOne = (inputs: Inputs): ValueType => {
  inputs.expectNames(['x']);
  const { rows, width } = inputs.rows(0);
  return { shape: [rows, width], type: 'f32' };
};

/** `weight` is absent: only the model knows how many columns its tensor has. */
const OP_RULES: { readonly [Op in Exclude<OpName, 'weight'>]: OpRule<Op> } = {
  input: (inputs, { name }) => {
    inputs.expectNames([]);
    return { shape: [name === 'logitRows' ? 'R' : 'T'], type: 'i32' };
  },
  concatRows: (inputs) => {
    if (inputs.all().length === 0) inputs.fail('takes at least one weight');
    const columns = inputs.at(0).shape.slice(1);
    let numRows = 0;
    for (const [index, input] of inputs.all().entries()) {
      const rows = input.shape[0];
      const isAlike = input.shape.length === columns.length + 1 && input.shape[1] === columns[0];
      if (!isWeightOp(input.op) || typeof rows !== 'number' || !isAlike) {
        const wanted = ['rows', ...columns].join(', ');
        return inputs.fail(`input ${index} must be a weight [${wanted}], got ${describe(input)}`);
      }
      numRows += rows;
    }
    return { shape: [numRows, ...columns], type: 'f32' };
  },
  affineWeight: (inputs, { scale, offset }) => {
    inputs.expectNames(['weight']);
    if (!isWeightOp(inputs.at(0).op)) inputs.fail(`takes a weight, got ${inputs.at(0).op}`);
    if (!Number.isFinite(scale) || !Number.isFinite(offset)) {
      inputs.fail(`scale and offset must be finite, got ${scale} and ${offset}`);
    }
    return { shape: inputs.at(0).shape, type: 'f32' };
  },
  embed: (inputs) => {
    inputs.expectNames(['table', 'tokenIds']);
    const { columns } = inputs.matrix(0);
    inputs.indices(1, 'T');
    return { shape: ['T', columns], type: 'f32' };
  },
  linear: (inputs, { bias, residual }) => {
    const names = ['x', 'weight', ...(bias ? ['bias'] : []), ...(residual ? ['residual'] : [])];
    inputs.expectNames(names);
    const { rows, width } = inputs.rows(0, ['f32', 'q8']);
    const weight = inputs.matrix(1);
    if (weight.columns !== width) {
      inputs.fail(
        `inner dimensions differ: x [${rows}, ${width}], weight [${weight.rows}, ${weight.columns}]`,
      );
    }
    if (bias) inputs.vector(2, weight.rows);
    if (residual) inputs.sameAs(names.length - 1, rows, weight.rows);
    return { shape: [rows, weight.rows], type: 'f32' };
  },
  rmsNorm: (inputs, { groupSize, residual, output }) => {
    inputs.expectNames(['x', 'weight', ...(residual ? ['residual'] : [])]);
    const { rows, width } = inputs.rows(0);
    inputs.positive(groupSize, 'groupSize');
    if (width % groupSize !== 0) {
      inputs.fail(`width ${width} is not a multiple of groupSize ${groupSize}`);
    }
    inputs.vector(1, groupSize);
    if (residual) inputs.sameAs(2, rows, width);
    if (output === 'q8') {
      inputs.q8Width(width);
      if (groupSize !== width || residual) {
        inputs.fail('q8 output needs one group per row and no residual');
      }
    }
    return { shape: [rows, width], type: output };
  },
  layerNorm: (inputs, { output }) => {
    inputs.expectNames(['x', 'weight', 'bias']);
    const { rows, width } = inputs.rows(0);
    inputs.vector(1, width);
    inputs.vector(2, width);
    if (output === 'q8') inputs.q8Width(width);
    return { shape: [rows, width], type: output };
  },
  slice: (inputs, { start, length }) => {
    inputs.expectNames(['x']);
    const { rows, width } = inputs.rows(0);
    inputs.positive(length, 'length');
    if (!Number.isInteger(start) || start < 0 || start + length > width) {
      inputs.fail(`columns [${start}, ${start + length}) lie outside width ${width}`);
    }
    return { shape: [rows, length], type: 'f32' };
  },
  rope: (inputs, { rope, numHeads, headDim }) => {
    inputs.expectNames(['x', 'positions']);
    inputs.sameAs(0, 'T', numHeads * headDim);
    inputs.indices(1, 'T');
    inputs.ropeSpec(rope, headDim);
    return { shape: inputs.at(0).shape, type: 'f32' };
  },
  attention: (inputs, attrs) => {
    inputs.expectNames(['q', 'k', 'v']);
    return inputs.qkv(attrs);
  },
  ropeKvStore: (inputs, attrs) => {
    inputs.expectNames(['q', 'k', 'v', 'positions']);
    inputs.indices(3, 'T');
    if (attrs.rope !== null) inputs.ropeSpec(attrs.rope, attrs.headDim);
    return inputs.qkv(attrs);
  },
  pagedAttention: (inputs, attrs) => {
    inputs.expectNames(['q']);
    inputs.heads(attrs);
    inputs.sameAs(0, 'T', attrs.numHeads * attrs.headDim);
    if (attrs.output === 'q8') inputs.q8Width(attrs.headDim);
    return { shape: inputs.at(0).shape, type: attrs.output };
  },
  add: (inputs, attrs) => {
    const second = inputs.at(1);
    if (!isWeightOp(second.op)) return elementwisePair(inputs, attrs);
    inputs.expectNames(['x', 'bias']);
    const { rows, width } = inputs.rows(0);
    inputs.vector(1, width);
    return { shape: [rows, width], type: 'f32' };
  },
  mul: elementwisePair,
  scale: elementwiseOne,
  softcap: (inputs, { cap }) => {
    if (!(cap > 0)) inputs.fail(`cap must be positive, got ${cap}`);
    return elementwiseOne(inputs);
  },
  activation: elementwiseOne,
  gatedActivation: (inputs, { output }) => {
    inputs.expectNames(['gate', 'up']);
    const { rows, width } = inputs.rows(0);
    inputs.sameAs(1, rows, width);
    if (output === 'q8') inputs.q8Width(width);
    return { shape: [rows, width], type: output };
  },
  permuteColumns: (inputs, { order, output }) => {
    const { shape } = elementwiseOne(inputs);
    const width = shape[1] as number;
    if (order.columns.length !== width) {
      inputs.fail(`an order of ${order.columns.length} columns does not fit width ${width}`);
    }
    if (output === 'q8') inputs.q8Width(width);
    return { shape, type: output };
  },
  quantize: (inputs, { outliers }) => {
    const { shape } = elementwiseOne(inputs);
    const width = shape[1] as number;
    inputs.q8Width(width);
    outliers.forEach((column, i) => {
      const least = i === 0 ? 0 : outliers[i - 1]! + 1;
      if (Number.isInteger(column) && column >= least && column < width) return;
      inputs.fail(
        `outlier column ${column} at ${i}: expected a whole number from ${least} to ${width - 1}`,
      );
    });
    return { shape, type: 'q8' };
  },
  outliers: (inputs) => {
    inputs.expectNames(['x']);
    const x = inputs.at(0);
    if (x.op !== 'quantize' || x.attrs.outliers.length === 0) {
      return inputs.fail(`takes a quantize with outliers, got ${x.op} ${describe(x)}`);
    }
    return { shape: [x.shape[0]!, x.attrs.outliers.length], type: 'f32' };
  },
  selectRows: (inputs) => {
    inputs.expectNames(['x', 'logitRows']);
    const { rows, width } = inputs.rows(0);
    if (rows !== 'T') inputs.fail(`takes one row per token, got ${describe(inputs.at(0))}`);
    inputs.indices(1, 'R');
    return { shape: ['R', width], type: 'f32' };
  },
  firstRows: (inputs) => {
    inputs.expectNames(['x']);
    const { rows, width } = inputs.rows(0);
    if (rows !== 'R') inputs.fail(`takes the selected rows, got ${describe(inputs.at(0))}`);
    return { shape: ['L', width], type: 'f32' };
  },
};

/** Ops whose value is known before any step: weights and arithmetic on them. */
export function isWeightOp(op: OpName): op is 'weight' | 'concatRows' | 'affineWeight' {
  return op === 'weight' || op === 'concatRows' || op === 'affineWeight';
}

/**
 * Shape and type of `op` on `inputs`, or a `GraphError` naming `node`.
 * For `weight`, whose shape only the model knows, `statedShape` is checked and returned.
 */
export function inferValueType<Op extends OpName>(
  node: NodeIdentity,
  op: Op,
  inputs: readonly GraphNode[],
  attrs: OpAttributes[Op],
  statedShape?: Shape,
): ValueType {
  const checked = new Inputs(node, inputs);
  if (op === 'weight') {
    const { ref } = attrs as OpAttributes['weight'];
    checked.expectNames([]);
    return { shape: checkedWeightShape(checked, countRows(ref), statedShape ?? []), type: 'f32' };
  }
  const rule = OP_RULES[op as Exclude<OpName, 'weight'>] as OpRule<Op>;
  return rule(checked, attrs);
}

function checkedWeightShape(inputs: Inputs, numRows: number, shape: Shape): Shape {
  const isPositive = shape.every((dim) => typeof dim === 'number' && dim > 0);
  if (!isPositive || shape.length < 1 || shape.length > 2 || shape[0] !== numRows) {
    inputs.fail(`its parts have ${numRows} rows, which does not fit shape [${shape.join(', ')}]`);
  }
  return shape;
}

function describe(value: ValueType): string {
  return `${value.type} [${value.shape.join(', ')}]`;
}
