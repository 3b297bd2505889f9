/**
 * Full open groups → blocks of q4: keys to codes by channel, values to codes by token (kv-layout.ts, tensor/kv-row.ts).
 *
 * A block is made from its own 32 tokens alone, so it has the same bits whenever it is made. Knows nothing of sequences.
 *
 * Keys by channel, values by token: Liu et al. 2024, "KIVI", arXiv:2402.02750.
 */
import { KernelBuilder } from './builder.ts';
import { requireCount } from './errors.ts';
import type { KernelProgram, Scalar, Vector, VectorMachine } from './kernel-ir.ts';
import {
  quantizeHead,
  SCALE_SCRATCH_BYTES,
  SMALLEST_SCALE,
  storeValueCodes,
} from './kv-elements.ts';
import {
  KV_GROUP_TOKENS,
  KV_SCALE_BYTES,
  type KvShape,
  keyBlockBytes,
  keyBytes,
  keyHeadBytes,
  keyScalesBytes,
  valueBlockBytes,
  valueHeadBytes,
  valueRowBytes,
  valueScalesBytes,
} from './kv-layout.ts';
import { openGroupAddress, openKeysBytes } from './open-group.ts';

export type SealKvShape = Omit<KvShape, 'kvType'>;

/** Codes of the `headDim` channels of keys at `from` (layout open) to the head of a block at `to`. */
function sealKeys(k: KernelBuilder, shape: KvShape, from: Scalar, to: Scalar): void {
  const { headDim } = shape;
  const scale = k.copy(to);
  const codes = k.add(to, keyScalesBytes(shape));
  const minimumOffset = KV_SCALE_BYTES * headDim;
  const rounded = k.at(k.scratch, k.reserveScratch(SCALE_SCRATCH_BYTES));
  /** The f16 of a vector of one value, at an offset from the channel's scale. */
  const storeF16 = (offset: number, value: Vector): void => {
    k.store(rounded, value, 'f16');
    k.storeScalar(16, k.at(scale, offset), k.loadScalar(16, rounded));
  };
  const zero = k.zero();
  const highest = k.splatF32(15);
  k.loop(headDim, () => {
    const load = (token: number): Vector => k.load(k.at(from, 2 * token), 'f16');
    const largest = load(0);
    const negated = k.subF(zero, largest);
    for (let token = k.lanes; token < KV_GROUP_TOKENS; token += k.lanes) {
      const x = load(token);
      k.maxF(largest, x, largest);
      k.maxF(negated, k.subF(zero, x, x), negated);
    }
    const minimum = k.subF(zero, k.unary('f32.reduceMax', negated));
    storeF16(minimumOffset, minimum);
    const range = k.subF(k.unary('f32.reduceMax', largest), minimum);
    storeF16(0, k.mulF(range, k.splatF32(1 / 15), range));
    const step = k.broadcast(rounded, 'f16');
    const inverse = k.keepWhereGe(k.divF(k.splatF32(1), step), step, k.splatF32(SMALLEST_SCALE));
    const code = (token: number): Vector => {
      const x = k.subF(load(token), minimum);
      k.mulF(x, inverse, x);
      return k.unary('i32.fromF32', k.minF(x, highest, x), x);
    };
    for (let token = 0; token < 16; token += k.lanes) {
      // The high half with its sign, so that bytes are within what an i8 holds.
      const high = k.shift('i32.sar', k.shift('i32.shl', code(16 + token), 28), 24);
      k.store(k.at(codes, token), k.binary('bits.or', code(token), high, high), 'i8');
    }
    k.addTo(from, 2 * KV_GROUP_TOKENS);
    k.addTo(scale, KV_SCALE_BYTES);
    k.addTo(codes, keyBytes('q4', 1));
  });
}

/** The same of the values of 32 tokens. */
function sealValues(k: KernelBuilder, shape: KvShape, from: Scalar, to: Scalar): void {
  const { headDim } = shape;
  const openRowBytes = valueRowBytes({ headDim, kvType: 'open' });
  const wideRow = k.reserveScratch(4 * headDim + 64);
  const codeRow = k.reserveScratch(headDim + 64);
  const scaleScratch = k.at(k.scratch, k.reserveScratch(SCALE_SCRATCH_BYTES));
  const scale = k.copy(to);
  const codes = k.add(to, valueScalesBytes(shape.kvType));
  const oneToken = (): void => {
    const wide = k.pointer(k.at(k.scratch, wideRow));
    k.unrolledLanes(headDim, (d, count) => {
      k.store(k.at(wide, 4 * d), k.load(k.at(from, 2 * d), 'f16', count), 'bits', count);
    });
    const head = { headDim, from: wide, scale: scaleScratch };
    quantizeHead(k, 'q4', head, (d, code) => k.store(k.at(k.scratch, codeRow + d), code, 'i8'));
    k.storeScalar(16, k.at(scale), k.loadScalar(16, scaleScratch));
    storeValueCodes(k, shape, codeRow, codes);
    k.addTo(from, openRowBytes);
    k.addTo(scale, KV_SCALE_BYTES);
    k.addTo(codes, valueRowBytes(shape));
  };
  k.loop(KV_GROUP_TOKENS, oneToken, { counterInMemory: true });
}

/**
 * For every entry (group, block) of `seals`, i32 `[numSeals, 2]`: the block ← the full open group.
 *
 * keyCache and valueCache are the addresses of the layer (kv-layout.ts, q4), open groups as in open-group.ts.
 *
 * Params: seals keyCache valueCache ownGroups stepGroups numOwnGroups. Chunk: entry * numKvHeads + kvHead.
 */
export function sealKvKernel(machine: VectorMachine, heads: SealKvShape): KernelProgram {
  const { numKvHeads, headDim } = heads;
  requireCount('sealKv', 'numKvHeads', numKvHeads);
  requireCount('sealKv', 'headDim', headDim, 8);
  const shape: KvShape = { ...heads, kvType: 'q4' };
  const open: KvShape = { ...heads, kvType: 'open' };
  const k = new KernelBuilder(`sealKv_${numKvHeads}_${headDim}`, machine);
  const index = k.div(k.chunk, numKvHeads);
  const kvHead = k.sub(k.chunk, k.mul(index, numKvHeads));
  const entry = k.add(k.arg('seals'), k.mul(index, 8));
  const group = openGroupAddress(k, heads, k.loadScalar(32, k.at(entry)));
  const block = k.loadScalar(32, k.at(entry, 4));

  const keys = k.add(k.arg('keyCache'), k.mul(block, keyBlockBytes(shape)));
  k.addTo(keys, k.mul(kvHead, keyHeadBytes(shape)));
  sealKeys(k, shape, k.add(group, k.mul(kvHead, keyHeadBytes(open))), keys);

  const values = k.add(k.arg('valueCache'), k.mul(block, valueBlockBytes(shape)));
  k.addTo(values, k.mul(kvHead, valueHeadBytes(shape)));
  const openValues = k.add(group, k.mul(kvHead, valueHeadBytes(open)));
  k.addTo(openValues, openKeysBytes(heads));
  sealValues(k, shape, openValues, values);
  return k.finish();
}
