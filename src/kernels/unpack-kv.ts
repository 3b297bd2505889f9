/**
 * Blocks of q4 taken apart: keys as f32, values as the f32 of their codes (layout `unpacked` of kv-layout.ts), for kernels that read a block many times.
 * The values are those that reading the codes gives, bit for bit; scales of values are not applied. Knows nothing of what is done with them.
 */
import type { KernelBuilder } from './builder.ts';
import type { Scalar } from './kernel-ir.ts';
import { loadKv } from './kv-elements.ts';
import {
  KV_GROUP_TOKENS,
  KV_SCALE_BYTES,
  keyBytes,
  keyScalesBytes,
  valuePlace,
  valueRowBytes,
  valueRowElements,
  valueScalesBytes,
} from './kv-layout.ts';
import { KV_TILE } from './kv-part.ts';

/** Bytes that the keys, or the values, of a KV tile take. */
export function unpackedTileBytes(headDim: number): number {
  return 4 * KV_TILE * valueRowElements(headDim);
}

/** The keys of one block and head at `from` to `to`, which moves on behind them. */
export function unpackKeyBlock(k: KernelBuilder, headDim: number, from: Scalar, to: Scalar): void {
  const scale = k.copy(from);
  const codes = k.add(from, keyScalesBytes({ headDim, kvType: 'q4' }));
  const mask = k.splatBits(15);
  k.loop(headDim, () => {
    const factor = k.broadcast(k.at(scale), 'f16');
    const minimum = k.broadcast(k.at(scale, KV_SCALE_BYTES * headDim), 'f16');
    for (let token = 0; token < 16; token += k.lanes) {
      const high = k.load(k.at(codes, token), 'u8');
      const low = k.binary('bits.and', high, mask);
      k.shift('i32.shr', high, 4, high);
      for (const [code, at] of [
        [low, token],
        [high, 16 + token],
      ] as const) {
        const key = k.unary('move', minimum);
        k.fmaInto(key, k.unary('f32.fromI32', code, code), factor);
        k.store(k.at(to, 4 * at), key);
      }
    }
    k.addTo(scale, KV_SCALE_BYTES);
    k.addTo(codes, keyBytes('q4', 1));
    k.addTo(to, keyBytes('unpacked', 1));
  });
}

/** The values of one block and head likewise. */
export function unpackValueBlock(
  k: KernelBuilder,
  headDim: number,
  from: Scalar,
  to: Scalar,
): void {
  const codes = k.add(from, valueScalesBytes('q4'));
  k.loop(KV_GROUP_TOKENS, () => {
    for (let d = 0; d < valueRowElements(headDim); d += k.lanes) {
      const { offsetBytes, isHighHalf } = valuePlace('q4', d);
      k.store(k.at(to, 4 * d), loadKv(k, 'q4', k.at(codes, offsetBytes), isHighHalf));
    }
    k.addTo(codes, valueRowBytes({ headDim, kvType: 'q4' }));
    k.addTo(to, valueRowBytes({ headDim, kvType: 'unpacked' }));
  });
}
