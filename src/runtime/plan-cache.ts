/**
 * The cache of packed weights: the second start maps a file and begins, instead of repacking the model.
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
  constants,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  realpathSync,
  rmSync,
  statfsSync,
  statSync,
  utimesSync,
  writeSync,
} from 'node:fs';
import path from 'node:path';
import type { Plan } from '../compiler/plan.ts';
import { removeStaleTemporariesIn, writeFileAtomic } from '../platform/atomic-file.ts';
import { HastenError } from '../platform/errors.ts';
import { NativeMemoryError } from '../platform/native-error.ts';
import { mapFile, type NativeRegion } from '../platform/native-memory.ts';
import { dropFromPageCache } from '../platform/page-cache.ts';
import type { WeightSource } from '../weights/contract.ts';
import { PlanCacheError } from './errors.ts';

const MAGIC = 'HASTENW1';
const HEADER_ALIGNMENT = 4096;
const SUFFIX = '.weights';

export interface PlanCacheOptions {
  readonly folder: string;
  /** Oldest files go when the cache grows beyond this. */
  readonly maxBytes: number;
}

export const DEFAULT_PLAN_CACHE_BYTES: number = 40 * 2 ** 30;

/** Digest of all that decides the bytes of the image. */
function weightFingerprint(
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

/**
 * Maps the packed weights of `plan`, packing them into the cache first if they are not there. A cache that cannot be written is good for what is in it.
 *
 * @throws {PlanCacheError} if they are not there and cannot be put there: no right to write, no space, a limit that is too small
 * @throws {WeightFileError} if the source cannot be read
 */
export async function cachedWeights(
  plan: Pick<Plan, 'weights' | 'weightBytes'>,
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
  try {
    await makeRoom(options, plan.weightBytes);
    await writeImage(file, fingerprint, plan, source, onProgress);
    // Pages of a file just written are small; read back by the mapping they are large.
    dropFromPageCache(file);
  } catch (cause) {
    // What the source or the packing throws is no fault of the cache.
    if (cause instanceof HastenError || !isSystemError(cause)) throw cause;
    throw new PlanCacheError(`${options.folder}: ${cause.message}`, { cause });
  }
  const written = mapImage(file, fingerprint, plan.weightBytes);
  if (!written) throw new PlanCacheError(`${file}: cannot be read back after writing`);
  return { ...written, wasCached: false };
}

function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && typeof (error as NodeJS.ErrnoException).code === 'string';
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

/** The image of `file`, or null if it is not there, not what is wanted, or cannot be read. */
function mapImage(
  file: string,
  fingerprint: string,
  imageBytes: number,
): { address: bigint; [Symbol.dispose](): void } | null {
  const expected = headerBytes(fingerprint, imageBytes);
  let region: NativeRegion;
  try {
    if (!hasHeader(file, expected, imageBytes)) return null;
    region = mapFile(file);
    // What is not in memory yet is read in pieces of 2 MB then, and stays so for later starts. In pages of 4 kB, which is what reading page by page
    // leaves, one thread streams weights a quarter slower (1.1B Q4_0: 31 instead of 42 t/s).
    region.advise('hugePages');
  } catch (error) {
    // Not there, no right to read, removed meanwhile, or on a file system that cannot map.
    if (error instanceof NativeMemoryError || isSystemError(error)) return null;
    throw error;
  }
  if (region.byteLength !== expected.length + imageBytes) {
    region.free();
    return null;
  }
  return {
    address: region.address + BigInt(expected.length),
    [Symbol.dispose]: () => region.free(),
  };
}

function hasHeader(file: string, expected: Buffer, imageBytes: number): boolean {
  const fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK); // not for ever, if it is a pipe
  try {
    const info = fstatSync(fd);
    if (!info.isFile() || info.size !== expected.length + imageBytes) return false;
    const seen = Buffer.alloc(expected.length);
    return readSync(fd, seen, 0, seen.length, 0) === seen.length && seen.equals(expected);
  } finally {
    closeSync(fd);
  }
}

async function writeImage(
  file: string,
  fingerprint: string,
  plan: Pick<Plan, 'weights' | 'weightBytes'>,
  source: WeightSource,
  onProgress?: (done: number, total: number) => void,
): Promise<void> {
  const { packWeights } = await import('./packed-weights.ts'); // Not loaded by starts that find the file.
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

/** Makes the folder, takes away what killed processes left, and the files that were used longest ago until the new one fits. */
async function makeRoom(
  { folder, maxBytes }: PlanCacheOptions,
  neededBytes: number,
): Promise<void> {
  if (neededBytes > maxBytes) {
    throw new PlanCacheError(
      `${folder}: the packed weights take ${neededBytes} bytes, the cache may hold ${maxBytes}`,
    );
  }
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  await removeStaleTemporariesIn(folder);
  const files = cachedFiles(folder).sort((a, b) => a.mtimeMs - b.mtimeMs);
  let total = files.reduce((sum, { size }) => sum + size, neededBytes);
  for (const { file, size } of files) {
    if (total <= maxBytes) break;
    // Whoever has it mapped keeps it.
    rmSync(file, { force: true });
    total -= size;
  }
  const { bavail, bsize } = statfsSync(folder);
  if (bavail * bsize < neededBytes) {
    throw new PlanCacheError(
      `${folder}: the packed weights take ${neededBytes} bytes, the disk has ${bavail * bsize} left`,
    );
  }
}

function cachedFiles(folder: string): { file: string; size: number; mtimeMs: number }[] {
  return readdirSync(folder).flatMap((name) => {
    if (!name.endsWith(SUFFIX)) return [];
    const file = path.join(folder, name);
    const info = statSync(file, { throwIfNoEntry: false }); // another process may make room too
    return info?.isFile() ? [{ file, size: info.size, mtimeMs: info.mtimeMs }] : [];
  });
}
