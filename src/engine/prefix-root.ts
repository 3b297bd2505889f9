/**
 * Where a prefix chain starts. Texts of different roots never share KV blocks, so what one tenant has asked cannot be told from how quickly another is
 * answered. Knows nothing of blocks.
 */

import { createHmac, randomBytes } from 'node:crypto';

/** What a chain of blocks starts from, in place of a parent block. */
export interface PrefixRoot {
  /** 0 or negative: seals of blocks are positive. */
  readonly seal: number;
  readonly hashHigh: number;
  readonly hashLow: number;
}

export const SHARED_ROOT: PrefixRoot = { seal: 0, hashHigh: 0, hashLow: 0 };

/** Of this process only: nobody can look for two salts that come to the same root. Made for the first salt, as most starts have none. */
let secret: Buffer | undefined;

/** @param salt any text; the empty one is the root that is shared by all who name none */
export function prefixRootOf(salt: string): PrefixRoot {
  if (salt === '') return SHARED_ROOT;
  secret ??= randomBytes(32);
  const digest = createHmac('sha256', secret).update(salt).digest();
  return {
    seal: -1 - digest.readUIntBE(0, 6) * 16 - (digest[6]! >> 4), // 52 bits
    hashHigh: digest.readUInt32LE(8) & 0x1fffff,
    hashLow: digest.readUInt32LE(12),
  };
}
