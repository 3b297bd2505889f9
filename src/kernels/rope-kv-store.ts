/**
 * Rotary embedding of queries and keys, and the store of keys and values into the paged KV cache (kv-layout.ts).
 *
 * RoPE: Su et al. 2021, arXiv:2104.09864. Paged KV cache: Kwon et al. 2023, arXiv:2309.06180.
 * Every value is computed from its own token alone, one product and one fused step, so splitting rows changes no bit.
 */
import type { QuantizedKvType } from '../tensor/kv-row.ts';
import { KernelBuilder } from './builder.ts';
import { KernelShapeError, requireCount } from './errors.ts';
import type { KernelProgram, Scalar, Vector, VectorMachine } from './kernel-ir.ts';
import {
  boundHead,
  quantizeHead,
  rotateHead,
  SCALE_SCRATCH_BYTES,
  storeValueCodes,
} from './kv-elements.ts';
import {
  hasOpenGroups,
  hasRotatedValues,
  hasTokenScales,
  KV_SCALE_BYTES,
  type KvShape,
  type KvType,
  keyBlockBytes,
  keyBytes,
  keyHeadBytes,
  keyPlace,
  keyScalesBytes,
  kvBlockSize,
  kvElements,
  valueBlockBytes,
  valueHeadBytes,
  valueRowBytes,
  valueScalesBytes,
} from './kv-layout.ts';
import { openGroupAddress, openKeysBytes } from './open-group.ts';
import type { RopeShape } from './rope-table.ts';
import { forEachRow, rowStream } from './rows.ts';

const LARGEST_F32 = 3.4028234663852886e38;
/** Elements that one iteration of the transposing copy moves. */
const SCATTER_UNROLL = 8;

export interface RopeKvStoreShape extends KvShape {
  readonly kvType: KvType;
  readonly numHeads: number;
  readonly rope: RopeShape | null;
}

/** body(from, to) for each of `numHeads` heads of `headBytes`. */
function forEachHead(
  k: KernelBuilder,
  numHeads: number,
  headBytes: number,
  rows: readonly [Scalar, Scalar],
  body: (from: Scalar, to: Scalar) => void,
): void {
  const from = k.copy(rows[0]);
  const to = k.copy(rows[1]);
  k.loop(numHeads, () => {
    body(from, to);
    k.addTo(from, headBytes);
    k.addTo(to, headBytes);
  });
}

/**
 * Rotates `numHeads` heads from one row to another (f32). cos and sin are loaded once for all heads; body order is by columns, then heads.
 */
function rotateHeads(
  k: KernelBuilder,
  { rope, headDim }: Pick<RopeKvStoreShape, 'rope' | 'headDim'>,
  numHeads: number,
  rows: readonly [Scalar, Scalar],
  cosSin: Scalar | undefined,
): void {
  const headBytes = 4 * headDim;
  const rotaryDim = rope?.rotaryDim ?? 0;
  if (rope?.style === 'half') {
    const half = rotaryDim / 2;
    k.unrolledLanes(half, (j, count) => {
      const cos = k.load(k.at(cosSin!, 4 * j), 'bits', count);
      const sin = k.load(k.at(cosSin!, 4 * (half + j)), 'bits', count);
      forEachHead(k, numHeads, headBytes, rows, (from, to) => {
        const first = k.load(k.at(from, 4 * j), 'bits', count);
        const second = k.load(k.at(from, 4 * (half + j)), 'bits', count);
        const low = k.mulF(first, cos);
        k.fnmaInto(low, second, sin);
        const high = k.mulF(second, cos);
        k.fmaInto(high, first, sin);
        k.store(k.at(to, 4 * j), low, 'bits', count);
        k.store(k.at(to, 4 * (half + j)), high, 'bits', count);
      });
    });
  } else if (rope?.style === 'interleaved') {
    k.unrolledLanes(rotaryDim, (j, count) => {
      const cos = k.load(k.at(cosSin!, 4 * j), 'bits', count);
      const signedSin = k.load(k.at(cosSin!, 4 * (rotaryDim + j)), 'bits', count);
      forEachHead(k, numHeads, headBytes, rows, (from, to) => {
        const x = k.load(k.at(from, 4 * j), 'bits', count);
        const y = k.mulF(x, cos);
        k.fmaInto(y, k.unary('f32.swap1', x), signedSin);
        k.store(k.at(to, 4 * j), y, 'bits', count);
      });
    });
  }
  if (rotaryDim === headDim) return;
  forEachHead(k, numHeads, headBytes, rows, (from, to) => {
    k.unrolledLanes(headDim - rotaryDim, (j, count) => {
      const offset = 4 * (rotaryDim + j);
      k.store(k.at(to, offset), k.load(k.at(from, offset), 'bits', count), 'bits', count);
    });
  });
}

/** f16 stores saturate by themselves; f32 ones are made to, so that the cache never holds infinity or NaN. */
function storeFinite(
  k: KernelBuilder,
  kvType: 'f16' | 'f32',
  to: Scalar,
  offsetBytes: number,
  value: Vector,
): void {
  const address = k.at(to, offsetBytes);
  if (kvType === 'f16') {
    k.store(address, value, 'f16');
    return;
  }
  const bounded = k.minF(value, k.splatF32(LARGEST_F32));
  k.store(address, k.maxF(bounded, k.splatF32(-LARGEST_F32)));
}

/** Where a token of this step goes: its block's keys or values, and its place in the block. */
interface TokenPlace {
  readonly block: Scalar;
  readonly inBlock: Scalar;
}

type LocateToken = (cache: 'keyCache' | 'valueCache') => TokenPlace;

/** Keys (in scratch, at offset `keyRow`) and values of a token, as elements of a float type. */
function storeFloats(
  k: KernelBuilder,
  shape: KvShape,
  keyRow: number,
  values: Scalar,
  locate: LocateToken,
): void {
  const { numKvHeads, headDim, kvType } = shape;
  const element = kvElements(kvType).keys === 'f32' ? 'f32' : 'f16';
  const bits = element === 'f16' ? 16 : 32;
  const elementBytes = bits / 8;
  const narrowKeyRow = k.reserveScratch(elementBytes * numKvHeads * headDim + 64);
  // The row of keys in the type of the cache, then element by element to where its token stands.
  const wide = k.pointer(k.at(k.scratch, keyRow));
  const narrow = k.pointer(k.at(k.scratch, narrowKeyRow));
  k.loop(Math.ceil((numKvHeads * headDim) / k.lanes), () => {
    storeFinite(k, element, narrow, 0, k.load(k.at(wide)));
    k.addTo(wide, 4 * k.lanes);
    k.addTo(narrow, elementBytes * k.lanes);
  });
  const { block: key, inBlock: keyInBlock } = locate('keyCache');
  k.addTo(key, k.mul(keyInBlock, elementBytes));
  const from = k.pointer(k.at(k.scratch, narrowKeyRow));
  k.loop((numKvHeads * headDim) / SCATTER_UNROLL, () => {
    for (let i = 0; i < SCATTER_UNROLL; i++) {
      const stored = k.loadScalar(bits, k.at(from, i * elementBytes));
      k.storeScalar(bits, k.at(key, keyPlace(kvType, i, 0).offsetBytes), stored);
    }
    k.addTo(from, SCATTER_UNROLL * elementBytes);
    k.addTo(key, keyBytes(kvType, SCATTER_UNROLL));
  });
  storeFloatValues(k, shape, element, values, locate);
}

function storeFloatValues(
  k: KernelBuilder,
  shape: KvShape,
  element: 'f16' | 'f32',
  values: Scalar,
  locate: LocateToken,
): void {
  const { numKvHeads, headDim, kvType } = shape;
  const isRotated = hasRotatedValues(kvType);
  const rotatedHead = isRotated ? k.reserveScratch(4 * headDim + 64) : 0;
  const { block: value, inBlock } = locate('valueCache');
  k.addTo(value, k.mul(inBlock, valueRowBytes(shape)));
  const from = k.copy(values);
  const oneHead = (): void => {
    let head = from;
    if (isRotated) {
      head = k.pointer(k.at(k.scratch, rotatedHead));
      boundHead(k, headDim, from, head);
      rotateHead(k, headDim, head);
    }
    k.unrolledLanes(headDim, (d, count) => {
      // Whole vectors: behind headDim there is padding, which gets the zeros of the lanes not loaded.
      const offset = (d * (element === 'f16' ? 16 : 32)) / 8;
      storeFinite(k, element, value, offset, k.load(k.at(head, 4 * d), 'bits', count));
    });
    k.addTo(from, 4 * headDim);
    k.addTo(value, valueHeadBytes(shape));
  };
  k.loop(numKvHeads, oneHead, { counterInMemory: isRotated });
}

/** The same as codes and scales: head by head rounded in scratch, then brought to where its token stands. */
function storeCodes(
  k: KernelBuilder,
  shape: KvShape,
  element: QuantizedKvType,
  keyRow: number,
  values: Scalar,
  locate: LocateToken,
): void {
  const { numKvHeads, headDim, kvType } = shape;
  const boundedHead = k.reserveScratch(4 * headDim + 64);
  const codeRow = k.reserveScratch(headDim + 64);
  const scale = k.at(k.scratch, k.reserveScratch(SCALE_SCRATCH_BYTES));
  const codeAt = (d: number) => k.at(k.scratch, codeRow + d);

  // Where the next head comes from and goes to: in memory, as the row's own pointers fill the registers.
  const nextFrom = k.slot();
  const nextScale = k.slot();
  const nextCodes = k.slot();

  /** Runs `body` for each head from `from` on, with its codes in scratch and where they go. */
  const forEachStoredHead = (
    from: Scalar,
    scales: Scalar,
    codes: Scalar,
    headBytes: number,
    body: (to: Scalar) => void,
  ): void => {
    nextFrom.set(from);
    nextScale.set(scales);
    nextCodes.set(codes);
    const oneHead = (): void => {
      const head = k.pointer(k.at(k.scratch, boundedHead));
      boundHead(k, headDim, nextFrom.get(), head);
      rotateHead(k, headDim, head);
      quantizeHead(k, element, { headDim, from: head, scale }, (d, code) =>
        k.store(codeAt(d), code, 'i8'),
      );
      k.storeScalar(16, k.at(nextScale.get()), k.loadScalar(16, scale));
      body(nextCodes.get());
      nextFrom.addTo(4 * headDim);
      nextScale.addTo(headBytes);
      nextCodes.addTo(headBytes);
    };
    k.loop(numKvHeads, oneHead, { counterInMemory: true });
  };

  const keyPlaces = locate('keyCache');
  const keyScales = k.add(keyPlaces.block, k.mul(keyPlaces.inBlock, KV_SCALE_BYTES));
  const keyCodes = k.add(k.add(keyPlaces.block, keyPlaces.inBlock), keyScalesBytes(shape));
  const keys = k.pointer(k.at(k.scratch, keyRow));
  forEachStoredHead(keys, keyScales, keyCodes, keyHeadBytes(shape), (to) => {
    const code = k.pointer(codeAt(0));
    k.loop(headDim / SCATTER_UNROLL, () => {
      for (let i = 0; i < SCATTER_UNROLL; i++) {
        const target = k.at(to, keyPlace(kvType, i, 0).offsetBytes);
        k.storeScalar(8, target, k.loadScalar(8, k.at(code, i)));
      }
      k.addTo(code, SCATTER_UNROLL);
      k.addTo(to, keyBytes(kvType, SCATTER_UNROLL));
    });
  });

  const { block, inBlock } = locate('valueCache');
  const valueScales = k.add(block, k.mul(inBlock, KV_SCALE_BYTES));
  const valueCodes = k.add(block, k.mul(inBlock, valueRowBytes(shape)));
  k.addTo(valueCodes, valueScalesBytes(kvType));
  forEachStoredHead(values, valueScales, valueCodes, valueHeadBytes(shape), (to) =>
    storeValueCodes(k, shape, codeRow, to),
  );
}

/**
 * For every token: rotated q → out, rotated k and v → the cache slot slotMapping[token].
 *
 * q and out f32 `[numRows, numHeads * headDim]`, k and v f32 `[numRows, numKvHeads * headDim]`, positions and slotMapping i32 `[numRows]`,
 * cosSin f32 `[positions, cosSinRowElements]` (see `cosSinRow`). keyCache and valueCache are the addresses of the layer, laid out as in kv-layout.ts.
 * Where blocks are written when they are full (q4), tokens go to open groups: slotMapping is then group * 32 + place in it (open-group.ts).
 * Without rope q is copied to out. Values beyond the range of the cache's type become its largest finite value, and so does NaN
 * (quantized types: beyond that of f16).
 *
 * Params: q qStride k kStride v vStride out outStride [positions cosSin cosSinStride] slotMapping numRows rowsPerChunk, and keyCache valueCache or those
 * of open-group.ts.
 * Chunk: rowsPerChunk tokens. Scratch: one row of keys. Positions and slots are not checked here.
 * @throws {KernelShapeError} if the head does not fit the rotation
 */
export function ropeKvStoreKernel(machine: VectorMachine, shape: RopeKvStoreShape): KernelProgram {
  const { numHeads, numKvHeads, headDim, rope, kvType } = shape;
  requireCount('ropeKvStore', 'numHeads', numHeads);
  requireCount('ropeKvStore', 'numKvHeads', numKvHeads);
  requireCount('ropeKvStore', 'headDim', headDim, 8);
  if (rope) {
    requireCount('ropeKvStore', 'rotaryDim', rope.rotaryDim, 2);
    if (rope.rotaryDim > headDim) {
      throw new KernelShapeError(
        'ropeKvStore',
        `rotaryDim ${rope.rotaryDim} exceeds headDim ${headDim}`,
      );
    }
  }
  const style = rope ? `${rope.style}${rope.rotaryDim}` : 'plain';
  const name = `ropeKvStore_${numHeads}_${numKvHeads}_${headDim}_${style}_${kvType}`;
  const k = new KernelBuilder(name, machine);
  const keyRow = k.reserveScratch(4 * numKvHeads * headDim + 64);
  const token = k.slot();
  token.set(k.mul(k.chunk, k.arg('rowsPerChunk')));

  /** The i32 of this token. */
  const ofToken = (param: string): Scalar =>
    k.loadScalar(32, k.at(k.arg(param), 0, token.get(), 4));

  forEachRow(k, ['q', 'k', 'v', 'out'].map(rowStream), ([q, keys, values, out]) => {
    const cosSin = rope
      ? k.add(k.arg('cosSin'), k.mul(ofToken('positions'), k.arg('cosSinStride')))
      : undefined;
    rotateHeads(k, shape, numHeads, [q!, out!], cosSin);
    rotateHeads(k, shape, numKvHeads, [keys!, k.pointer(k.at(k.scratch, keyRow))], cosSin);

    const locate: LocateToken = (cache) => {
      const slot = ofToken('slotMapping');
      const block = k.shr(slot, Math.log2(kvBlockSize(kvType)));
      const inBlock = k.and(slot, kvBlockSize(kvType) - 1);
      if (hasOpenGroups(kvType)) {
        const group = openGroupAddress(k, shape, block);
        if (cache === 'valueCache') k.addTo(group, openKeysBytes(shape));
        return { block: group, inBlock };
      }
      const blockBytes = cache === 'keyCache' ? keyBlockBytes(shape) : valueBlockBytes(shape);
      return { block: k.add(k.arg(cache), k.mul(block, blockBytes)), inBlock };
    };
    const stored: KvShape = hasOpenGroups(kvType) ? { ...shape, kvType: 'open' } : shape;
    const { keys: element } = kvElements(stored.kvType);
    if (hasTokenScales(element)) storeCodes(k, shape, element, keyRow, values!, locate);
    else storeFloats(k, stored, keyRow, values!, locate);
    token.addTo(1);
  });
  return k.finish();
}
