/**
 * Reads members of a zip archive as streams, zip64 included. Wheels are zip files with stored or deflated members, and
 * node:zlib inflates those, so a central-directory reader of this size takes the place of a further dependency.
 * Left out: encryption, other methods, archives in several volumes. Every number in the archive is checked before use.
 * Format: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7 to 4.3.16 and 4.5.3.
 */
import { createReadStream } from 'node:fs';
import * as fs from 'node:fs/promises';
import { pipeline } from 'node:stream';
import { crc32, createInflateRaw } from 'node:zlib';
import { ArchiveError } from './errors.ts';

const END_SIGNATURE = 0x06054b50;
const END64_SIGNATURE = 0x06064b50;
const END64_LOCATOR_SIGNATURE = 0x07064b50;
const ENTRY_SIGNATURE = 0x02014b50;
const LOCAL_SIGNATURE = 0x04034b50;
const END_BYTES = 22;
const MAX_COMMENT_BYTES = 65_535;
const MAX_DIRECTORY_BYTES = 64 * 2 ** 20;
const ZIP64_FIELD = 1;
const UNSET_32 = 0xffff_ffff;

export interface ZipMember {
  readonly name: string;
  readonly sizeBytes: number;
  readonly compressedBytes: number;
  /** 0 stored, 8 deflated */
  readonly method: number;
  readonly crc32: number;
  readonly localOffset: number;
}

/** The members of an archive by name. @throws {ArchiveError} if it is not a whole zip file */
export async function readZipDirectory(path: string): Promise<Map<string, ZipMember>> {
  const file = await fs.open(path, 'r');
  try {
    const { size } = await file.stat();
    const { offset, sizeBytes } = await findDirectory(file, path, size);
    const directory = await readAt(file, path, offset, sizeBytes);
    return parseDirectory(directory, path, size);
  } finally {
    await file.close();
  }
}

/**
 * The bytes of one member.
 *
 * @throws {ArchiveError} if they break off, do not inflate, or do not have the size and CRC-32 the directory states
 */
export async function* readZipMember(
  path: string,
  member: ZipMember,
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const start = await dataOffset(path, member);
  if (member.compressedBytes === 0 && member.sizeBytes === 0) return;
  const compressed = createReadStream(path, {
    start,
    end: start + member.compressedBytes - 1,
    highWaterMark: 2 ** 18,
    ...(signal === undefined ? {} : { signal }),
  });
  // Errors of either stream surface in the loop below; the callback only keeps them from being unhandled.
  const plain =
    member.method === 0
      ? compressed
      : pipeline(compressed, createInflateRaw({ chunkSize: 2 ** 18 }), () => {});
  let checksum = 0;
  let sizeBytes = 0;
  try {
    for await (const chunk of plain as AsyncIterable<Buffer>) {
      sizeBytes += chunk.length;
      if (sizeBytes > member.sizeBytes) break;
      checksum = crc32(chunk, checksum);
      yield chunk;
    }
  } catch (error) {
    signal?.throwIfAborted();
    throw new ArchiveError(path, `member "${member.name}": ${(error as Error).message}`);
  }
  if (sizeBytes !== member.sizeBytes || checksum !== member.crc32) {
    throw new ArchiveError(
      path,
      `member "${member.name}" has ${sizeBytes} bytes with CRC-32 ${checksum}, expected ${member.sizeBytes} bytes with ${member.crc32}`,
    );
  }
}

async function findDirectory(
  file: fs.FileHandle,
  path: string,
  fileBytes: number,
): Promise<{ offset: number; sizeBytes: number }> {
  const tailBytes = Math.min(fileBytes, END_BYTES + MAX_COMMENT_BYTES);
  const tail = await readAt(file, path, fileBytes - tailBytes, tailBytes);
  let end = tail.length - END_BYTES;
  while (end >= 0 && tail.readUInt32LE(end) !== END_SIGNATURE) end--;
  if (end < 0) throw new ArchiveError(path, 'is no zip archive, or its end is missing');

  let sizeBytes = tail.readUInt32LE(end + 12);
  let offset = tail.readUInt32LE(end + 16);
  if (offset === UNSET_32 || sizeBytes === UNSET_32 || tail.readUInt16LE(end + 10) === 0xffff) {
    const locatorAt = fileBytes - tailBytes + end - 20;
    const locator = locatorAt < 0 ? undefined : await readAt(file, path, locatorAt, 20);
    if (locator?.readUInt32LE(0) === END64_LOCATOR_SIGNATURE) {
      const end64 = await readAt(file, path, safeNumber(locator.readBigUInt64LE(8), path), 56);
      if (end64.readUInt32LE(0) !== END64_SIGNATURE) {
        throw new ArchiveError(path, 'its zip64 end record is missing');
      }
      sizeBytes = safeNumber(end64.readBigUInt64LE(40), path);
      offset = safeNumber(end64.readBigUInt64LE(48), path);
    }
  }
  if (sizeBytes > MAX_DIRECTORY_BYTES || offset + sizeBytes > fileBytes) {
    throw new ArchiveError(path, `its directory of ${sizeBytes} bytes at ${offset} does not fit`);
  }
  return { offset, sizeBytes };
}

function parseDirectory(
  directory: Buffer,
  path: string,
  fileBytes: number,
): Map<string, ZipMember> {
  const members = new Map<string, ZipMember>();
  let at = 0;
  while (at + 46 <= directory.length && directory.readUInt32LE(at) === ENTRY_SIGNATURE) {
    const nameBytes = directory.readUInt16LE(at + 28);
    const extraBytes = directory.readUInt16LE(at + 30);
    const next = at + 46 + nameBytes + extraBytes + directory.readUInt16LE(at + 32);
    if (next > directory.length) break;
    const extraAt = at + 46 + nameBytes;
    const name = directory.toString('utf8', at + 46, extraAt);
    const isEncrypted = (directory.readUInt16LE(at + 8) & 1) !== 0;
    const method = directory.readUInt16LE(at + 10);
    const wide = new Zip64Field(directory.subarray(extraAt, extraAt + extraBytes), path);
    const member: ZipMember = {
      name,
      method,
      crc32: directory.readUInt32LE(at + 16),
      // The order is that of the zip64 field: plain size, compressed size, offset.
      sizeBytes: wide.orOwn(directory.readUInt32LE(at + 24)),
      compressedBytes: wide.orOwn(directory.readUInt32LE(at + 20)),
      localOffset: wide.orOwn(directory.readUInt32LE(at + 42)),
    };
    if (member.localOffset + 30 + member.compressedBytes > fileBytes) {
      throw new ArchiveError(path, `member "${name}" reaches past the end of the archive`);
    }
    if (
      !isEncrypted &&
      (method === 8 || (method === 0 && member.sizeBytes === member.compressedBytes))
    ) {
      members.set(name, member);
    }
    at = next;
  }
  if (at !== directory.length)
    throw new ArchiveError(path, `its directory breaks off at byte ${at}`);
  return members;
}

/** The 64-bit values of an entry, for each of the 32-bit fields that says "look there". */
class Zip64Field {
  readonly #values: Buffer;
  readonly #path: string;
  #at = 0;

  constructor(extra: Buffer, path: string) {
    this.#path = path;
    let at = 0;
    let values: Buffer = Buffer.alloc(0);
    while (at + 4 <= extra.length) {
      const sizeBytes = extra.readUInt16LE(at + 2);
      if (extra.readUInt16LE(at) === ZIP64_FIELD)
        values = extra.subarray(at + 4, at + 4 + sizeBytes);
      at += 4 + sizeBytes;
    }
    this.#values = values;
  }

  orOwn(value: number): number {
    if (value !== UNSET_32) return value;
    if (this.#at + 8 > this.#values.length) {
      throw new ArchiveError(this.#path, 'a zip64 size is missing');
    }
    const wide = this.#values.readBigUInt64LE(this.#at);
    this.#at += 8;
    return safeNumber(wide, this.#path);
  }
}

/** Where a member's bytes begin: the local header has its own name and extra lengths. */
async function dataOffset(path: string, member: ZipMember): Promise<number> {
  const file = await fs.open(path, 'r');
  try {
    const header = await readAt(file, path, member.localOffset, 30);
    if (header.readUInt32LE(0) !== LOCAL_SIGNATURE) {
      throw new ArchiveError(
        path,
        `member "${member.name}" has no header at ${member.localOffset}`,
      );
    }
    return member.localOffset + 30 + header.readUInt16LE(26) + header.readUInt16LE(28);
  } finally {
    await file.close();
  }
}

async function readAt(
  file: fs.FileHandle,
  path: string,
  offset: number,
  sizeBytes: number,
): Promise<Buffer> {
  const buffer = Buffer.alloc(sizeBytes);
  const { bytesRead } = await file.read(buffer, 0, sizeBytes, offset);
  if (bytesRead !== sizeBytes)
    throw new ArchiveError(path, `ends before byte ${offset + sizeBytes}`);
  return buffer;
}

function safeNumber(value: bigint, path: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new ArchiveError(path, `states a size of ${value} bytes`);
  }
  return Number(value);
}
