/**
 * The cache of packed weights: the second start maps a file and begins, instead of repacking the model (DESIGN decision 5).
 *
 * A file holds the weight image and the list of weights that it was packed from, never code and never the plan itself: the plan is made anew from the model
 * and must ask for exactly the stored list, so a file from elsewhere can at most hold wrong numbers. Its name is a digest of the list and of what
 * identifies the source files (path, size, time of change). Files appear under their name only when complete.
 *
 *     0     "HASTENW1"
 *     8     u32 length of the JSON header
 *     12    JSON: { fingerprint, imageBytes }
 *     imageOffset = header rounded up to 4096: the image
 */
import { createHash } from 'node:crypto';
import {
  closeSync,
  openSync,
  readdirSync,
  readSync,
  realpathSync,
  statSync,
  unlinkSync,
  utimesSync,
  writeSync,
} from 'node:fs';
import path from 'node:path';
import type { Plan } from '../compiler/plan.ts';
import { writeFileAtomic } from '../platform/atomic-file.ts';
import { mapFile, type NativeRegion } from '../platform/native-memory.ts';
import type { WeightSource } from '../weights/contract.ts';
import { packWeights } from './packed-weights.ts';

const MAGIC = 'HASTENW1';
const HEADER_ALIGNMENT = 4096;
const MAX_HEADER_BYTES = 1 << 20;
const SUFFIX = '.weights';

export interface PlanCacheOptions {
  readonly folder: string;
  /** Oldest files go when the cache grows beyond this. */
  readonly maxBytes: number;
}

export const DEFAULT_PLAN_CACHE_BYTES: number = 40 * 2 ** 30;

/** Digest of all that decides the bytes of the image. */
export function weightFingerprint(
  plan: Pick<Plan, 'weights' | 'weightBytes'>,
  source: WeightSource,
): string {
  const hash = createHash('sha256');
  hash.update(MAGIC);
  for (const file of source.files) {
    const real = realpathSync(file);
    const { size, mtimeMs } = statSync(real);
    hash.update(JSON.stringify([real, size, mtimeMs]));
  }
  hash.update(JSON.stringify(plan.weights));
  return hash.digest('hex');
}

/** A mapped image; `address` is its first byte. */
export interface MappedImage extends Disposable {
  readonly address: bigint;
  readonly wasCached: boolean;
}

/** Maps the packed weights of `plan`, packing them into the cache first if they are not there. */
export async function cachedWeights(
  plan: Plan,
  source: WeightSource,
  options: PlanCacheOptions,
  onProgress?: (done: number, total: number) => void,
): Promise<MappedImage> {
  const fingerprint = weightFingerprint(plan, source);
  const file = path.join(options.folder, `${fingerprint}${SUFFIX}`);
  const cached = mapImage(file, fingerprint, plan.weightBytes);
  if (cached) {
    touch(file);
    return { ...cached, wasCached: true };
  }
  makeRoom(options, plan.weightBytes);
  await writeImage(file, fingerprint, plan, source, onProgress);
  const written = mapImage(file, fingerprint, plan.weightBytes);
  if (!written) throw new Error(`${file}: cannot be read back after writing`);
  return { ...written, wasCached: false };
}

function headerBytes(fingerprint: string, imageBytes: number): Buffer {
  const json = Buffer.from(JSON.stringify({ fingerprint, imageBytes }));
  const size = Math.ceil((MAGIC.length + 4 + json.length) / HEADER_ALIGNMENT) * HEADER_ALIGNMENT;
  const header = Buffer.alloc(size);
  header.write(MAGIC, 0, 'latin1');
  header.writeUInt32LE(json.length, MAGIC.length);
  json.copy(header, MAGIC.length + 4);
  return header;
}

/** The image of `file`, or null if it is not there or not what is wanted. */
function mapImage(
  file: string,
  fingerprint: string,
  imageBytes: number,
): { address: bigint; [Symbol.dispose](): void } | null {
  const expected = headerBytes(fingerprint, imageBytes);
  let fd: number;
  try {
    fd = openSync(file, 'r');
  } catch {
    return null;
  }
  try {
    const size = statSync(file).size;
    const seen = Buffer.alloc(Math.min(expected.length, MAX_HEADER_BYTES));
    readSync(fd, seen, 0, seen.length, 0);
    if (!seen.equals(expected) || size !== expected.length + imageBytes) return null;
  } finally {
    closeSync(fd);
  }
  const region: NativeRegion = mapFile(file);
  return {
    address: region.address + BigInt(expected.length),
    [Symbol.dispose]: () => region.free(),
  };
}

async function writeImage(
  file: string,
  fingerprint: string,
  plan: Plan,
  source: WeightSource,
  onProgress?: (done: number, total: number) => void,
): Promise<void> {
  const total = plan.weightBytes;
  await writeFileAtomic(
    file,
    async (handle) => {
      const header = headerBytes(fingerprint, total);
      await handle.truncate(header.length + total);
      await handle.write(header, 0, header.length, 0);
      packWeights(
        plan.weights,
        source,
        (offset, bytes) => writeFully(handle.fd, bytes, header.length + offset),
        (done) => onProgress?.(done, total),
      );
    },
    { mode: 0o600 },
  );
}

function writeFully(fd: number, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.length; ) {
    done += writeSync(fd, bytes, done, bytes.length - done, position + done);
  }
}

/** Marks the file as used now: what `makeRoom` goes by. */
function touch(file: string): void {
  const now = new Date();
  try {
    utimesSync(file, now, now);
  } catch {
    // A read-only cache works as well; it only ages.
  }
}

function makeRoom({ folder, maxBytes }: PlanCacheOptions, neededBytes: number): void {
  let names: string[];
  try {
    names = readdirSync(folder).filter((name) => name.endsWith(SUFFIX));
  } catch {
    return;
  }
  const files = names
    .map((name) => {
      const file = path.join(folder, name);
      const { size, mtimeMs } = statSync(file);
      return { file, size, mtimeMs };
    })
    .sort((a, b) => a.mtimeMs - b.mtimeMs);
  let total = files.reduce((sum, f) => sum + f.size, neededBytes);
  for (const { file, size } of files) {
    if (total <= maxBytes) return;
    unlinkSync(file);
    total -= size;
  }
}
