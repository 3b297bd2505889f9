/**
 * Memory outside the JavaScript heap: anonymous regions, mapped files, and typed-array views of
 * both. Addresses are BigInt and meant to be taken once, at set-up; hot paths use the views.
 *
 * Knows nothing of tensors. Nothing here tracks who still looks at a region: the owner frees it
 * when no view, worker or native code uses it any more.
 */
import { closeSync, fstatSync, openSync } from 'node:fs';
import { arrayBufferAt, lastErrno, libcFunction } from './ffi.ts';
import { NativeMemoryError } from './native-error.ts';
import { requirePlatformSupport } from './support.ts';

const PAGE_BYTES = 4096;
const HUGE_PAGE_BYTES = 2 * 1024 * 1024;

// Constants of Linux on x86-64, from <sys/mman.h>.
const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 0x01;
const MAP_PRIVATE = 0x02;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const MAP_POPULATE = 0x8000;
const ADVICE = {
  normal: 0,
  random: 1,
  sequential: 2,
  willNeed: 3,
  dontNeed: 4,
  hugePages: 14,
  noHugePages: 15,
} as const;
/** What the kernel is told about a region; see madvise(2). */
export type Advice = keyof typeof ADVICE;

/** The errno values that calls here can give. */
const ERRNO_NAMES: Readonly<Record<number, string>> = {
  1: 'EPERM: not permitted',
  9: 'EBADF: bad file descriptor',
  11: 'EAGAIN: locked memory limit reached',
  12: 'ENOMEM: out of memory or address space',
  13: 'EACCES: access denied',
  19: 'ENODEV: the file system cannot map files',
  22: 'EINVAL: invalid argument',
};

/** The text of the C library's last error, best effort. */
function lastErrorText(): string {
  const errno = lastErrno();
  return ERRNO_NAMES[errno] ?? `errno ${errno}`;
}

const mmap = (length: bigint, prot: number, flags: number, fd: number, offset: bigint): bigint =>
  libcFunction('mmap', 'pointer', ['pointer', 'uint64', 'int32', 'int32', 'int32', 'int64'])(
    0n,
    length,
    prot,
    flags,
    fd,
    offset,
  ) as bigint;
const munmap = (address: bigint, length: bigint): number =>
  libcFunction('munmap', 'int32', ['pointer', 'uint64'])(address, length) as number;
const madvise = (address: bigint, length: bigint, advice: number): number =>
  libcFunction('madvise', 'int32', ['pointer', 'uint64', 'int32'])(
    address,
    length,
    advice,
  ) as number;
const mlock = (address: bigint, length: bigint): number =>
  libcFunction('mlock', 'int32', ['pointer', 'uint64'])(address, length) as number;

/** mmap answers -1, that is an address in the last page, on failure. */
const isMapFailed = (address: bigint): boolean => address >= 2n ** 64n - BigInt(PAGE_BYTES);

/** A mapped range of addresses; unmapped by `free` or at the end of a `using` block. */
export class NativeRegion {
  readonly address: bigint;
  readonly byteLength: number;
  /** What is really mapped, which alignment may make larger. */
  #mapped: { readonly address: bigint; readonly length: bigint } | undefined;

  /** For `allocate` and `mapFile`; the region owns the mapped range from here on. */
  constructor(
    address: bigint,
    byteLength: number,
    mapped: { readonly address: bigint; readonly length: bigint },
  ) {
    this.address = address;
    this.byteLength = byteLength;
    this.#mapped = mapped;
  }

  get isFreed(): boolean {
    return this.#mapped === undefined;
  }

  /** Bytes `[offset, offset + length)` as a view without copying; the whole region by default. */
  bytes(offset = 0, length = this.byteLength - offset): Uint8Array<ArrayBuffer> {
    this.#check(offset, length);
    return u8(this.address + BigInt(offset), length);
  }

  /**
   * Tells the kernel how a part will be used. Offsets are rounded out to whole pages.
   * @returns false if the kernel refused; advice is never needed for correctness
   */
  advise(advice: Advice, offset = 0, length = this.byteLength - offset): boolean {
    this.#check(offset, length);
    const start = Math.floor(offset / PAGE_BYTES) * PAGE_BYTES;
    const size = BigInt(offset + length - start);
    return madvise(this.address + BigInt(start), size, ADVICE[advice]) === 0;
  }

  /** Keeps the region in memory. @returns false if the locked-memory limit forbids it */
  lock(): boolean {
    this.#check(0, this.byteLength);
    return mlock(this.address, BigInt(this.byteLength)) === 0;
  }

  /** Unmaps the region; every view of it becomes invalid. Does nothing the second time. */
  free(): void {
    const mapped = this.#mapped;
    if (mapped === undefined) return;
    this.#mapped = undefined;
    if (munmap(mapped.address, mapped.length) !== 0) {
      throw new NativeMemoryError(`munmap failed: ${lastErrorText()}`, this.byteLength);
    }
  }

  [Symbol.dispose](): void {
    this.free();
  }

  #check(offset: number, length: number): void {
    if (this.#mapped === undefined) {
      throw new NativeMemoryError('the region was freed', this.byteLength);
    }
    const isInside =
      Number.isSafeInteger(offset) &&
      Number.isSafeInteger(length) &&
      offset >= 0 &&
      length >= 0 &&
      offset + length <= this.byteLength;
    if (!isInside) {
      throw new NativeMemoryError(
        `bytes ${offset} to ${offset + length} lie outside a region of ${this.byteLength} bytes`,
        length,
      );
    }
  }
}

export interface AllocateOptions {
  /**
   * Ask for transparent huge pages and align to 2 MiB. Saves TLB misses on large weights (0-8 %);
   * memory is then taken in steps of 2 MiB. `later` aligns only, for whoever advises it in time.
   */
  readonly hugePages?: boolean | 'later';
  /**
   * Do not count the region against the commit limit until touched (default true): a KV cache is
   * sized for the worst case and mostly untouched. False makes a shortage show here instead of
   * as a kill later, where the system enforces commit limits.
   */
  readonly noReserve?: boolean;
}

/**
 * Zeroed anonymous memory of at least one byte, aligned to a page, or to 2 MiB with `hugePages`.
 * @throws {NativeMemoryError} if the system refuses it
 * @throws {UnsupportedPlatformError} where native code cannot run
 */
export function allocate(byteLength: number, options: AllocateOptions = {}): NativeRegion {
  requirePlatformSupport();
  if (!Number.isSafeInteger(byteLength) || byteLength < 1) {
    throw new NativeMemoryError(`cannot allocate ${byteLength} bytes`, byteLength);
  }
  const { hugePages = false, noReserve = true } = options;
  const flags = MAP_PRIVATE | MAP_ANONYMOUS | (noReserve ? MAP_NORESERVE : 0);
  const slack = hugePages === false ? 0 : HUGE_PAGE_BYTES;
  const length = BigInt(byteLength + slack);
  const start = mmap(length, PROT_READ | PROT_WRITE, flags, -1, 0n);
  if (isMapFailed(start)) {
    throw new NativeMemoryError(
      `cannot allocate ${byteLength} bytes: ${lastErrorText()}`,
      byteLength,
    );
  }
  const step = BigInt(hugePages === false ? PAGE_BYTES : HUGE_PAGE_BYTES);
  const address = ((start + step - 1n) / step) * step;
  const region = new NativeRegion(address, byteLength, { address: start, length });
  // Refused where huge pages are configured off; the region works without.
  if (hugePages === true) region.advise('hugePages');
  return region;
}

export interface MapFileOptions {
  /** First byte; rounded down to a page inside, the region still starts at this byte. */
  readonly offset?: number;
  /** Bytes from `offset`; to the end of the file by default. */
  readonly length?: number;
  /** See other processes' later writes (default), or a private snapshot page by page. */
  readonly sharing?: 'shared' | 'private';
  /** Read the whole range now instead of at first touch. */
  readonly populate?: boolean;
}

/**
 * Maps a file read-only. Writing to the views kills the process; so does reading them after
 * the file was truncated by someone, so map only files that are replaced by rename.
 *
 * @throws {NativeMemoryError} if the range lies outside the file or the system refuses it
 */
export function mapFile(path: string, options: MapFileOptions = {}): NativeRegion {
  requirePlatformSupport();
  const fd = openSync(path, 'r');
  try {
    const { size } = fstatSync(fd);
    const { offset = 0, length = size - offset, sharing = 'shared', populate = false } = options;
    const isRange = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0;
    if (!isRange || length < 1 || offset + length > size) {
      throw new NativeMemoryError(
        `${path}: cannot map ${length} bytes from ${offset} of a file of ${size}`,
        length,
      );
    }
    const skipped = offset % PAGE_BYTES;
    const flags = (sharing === 'shared' ? MAP_SHARED : MAP_PRIVATE) | (populate ? MAP_POPULATE : 0);
    const mappedLength = BigInt(length + skipped);
    const start = mmap(mappedLength, PROT_READ, flags, fd, BigInt(offset - skipped));
    if (isMapFailed(start)) {
      throw new NativeMemoryError(
        `${path}: cannot map ${length} bytes: ${lastErrorText()}`,
        length,
      );
    }
    return new NativeRegion(start + BigInt(skipped), length, {
      address: start,
      length: mappedLength,
    });
  } finally {
    closeSync(fd);
  }
}

function bufferAt(address: bigint, count: number, elementBytes: number): ArrayBuffer {
  if (address % BigInt(elementBytes) !== 0n) {
    throw new NativeMemoryError(
      `address ${address.toString(16)} is not aligned to ${elementBytes} bytes`,
      count * elementBytes,
    );
  }
  return arrayBufferAt(address, count * elementBytes);
}

// Views of native memory without copying; `length` counts elements. The memory must stay mapped.
export const u8 = (address: bigint, length: number): Uint8Array<ArrayBuffer> =>
  new Uint8Array(bufferAt(address, length, 1));
export const f16 = (address: bigint, length: number): Float16Array<ArrayBuffer> =>
  new Float16Array(bufferAt(address, length, 2));
export const i32 = (address: bigint, length: number): Int32Array<ArrayBuffer> =>
  new Int32Array(bufferAt(address, length, 4));
export const u32 = (address: bigint, length: number): Uint32Array<ArrayBuffer> =>
  new Uint32Array(bufferAt(address, length, 4));
export const f32 = (address: bigint, length: number): Float32Array<ArrayBuffer> =>
  new Float32Array(bufferAt(address, length, 4));
export const u64 = (address: bigint, length: number): BigUint64Array<ArrayBuffer> =>
  new BigUint64Array(bufferAt(address, length, 8));
