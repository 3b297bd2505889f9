/**
 * Saved sessions: the tokens of a text with their keys and values, in a file, so that a later process goes on without computing them again. Reads and
 * writes block by block, so that an engine can go on between two of them.
 *
 *   8 bytes    "hastenKV"
 *   u32 LE     length of the header
 *   header     JSON: version, fingerprint, blockSize, blockBytes, numBlocks, checksums (CRC-32 of the token ids, then of each block)
 *   i32 LE     token ids, numBlocks * blockSize
 *   blocks     numBlocks * blockBytes, as `ModelRunner.readBlock` gives them
 *
 * Everything is checked against damage. Against malice it is not: whoever can write the file can make the model see what it likes in that text.
 */

import { type FileHandle, open } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { writeFileAtomic } from '../platform/atomic-file.ts';
import { HastenError } from '../platform/errors.ts';

const MAGIC = 'hastenKV';
const VERSION = 1;
const MAX_HEADER_BYTES = 64 * 1024 * 1024;

/** A session file that cannot be used. */
export class KvSessionError extends HastenError {
  constructor(message: string, options?: ErrorOptions) {
    super('invalid_session', message, options);
  }
}

/** What must be equal where a session is saved and where it is restored. */
export interface KvSessionFormat {
  /** Names model, weights and KV format. */
  readonly fingerprint: string;
  readonly blockSize: number;
  readonly blockBytes: number;
}

interface Header extends KvSessionFormat {
  readonly version: number;
  readonly numBlocks: number;
  readonly checksums: readonly number[];
}

/**
 * @param tokenIds  `numBlocks * blockSize` of them
 * @param readBlock fills the buffer with block `index` of the text
 * @throws {KvSessionError} if it cannot be written
 */
export async function writeKvSession(
  path: string,
  format: KvSessionFormat,
  tokenIds: Int32Array,
  readBlock: (index: number, into: Uint8Array) => void,
): Promise<void> {
  const numBlocks = tokenIds.length / format.blockSize;
  const { fingerprint, blockSize, blockBytes } = format;
  const bytes = new Uint8Array(blockBytes);
  const idBytes = littleEndian(tokenIds);
  const checksums = new Array<number>(1 + numBlocks).fill(0xffffffff);
  const headerOf = (): Uint8Array => {
    const header: Header = {
      version: VERSION,
      fingerprint,
      blockSize,
      blockBytes,
      numBlocks,
      checksums,
    };
    return new TextEncoder().encode(JSON.stringify(header));
  };
  // No header is longer than the one with the largest checksums: the blocks go behind a gap for that, and then the header into the gap.
  const headerLength = headerOf().length;
  const start = MAGIC.length + 4 + headerLength + idBytes.length;
  const produce = async (file: FileHandle): Promise<void> => {
    checksums[0] = crc32(idBytes);
    for (let index = 0; index < numBlocks; index++) {
      readBlock(index, bytes);
      checksums[1 + index] = crc32(bytes);
      await writeAll(file, bytes, start + index * blockBytes);
    }
    const header = new Uint8Array(headerLength).fill(0x20);
    header.set(headerOf());
    const length = new Uint8Array(4);
    new DataView(length.buffer).setUint32(0, headerLength, true);
    await writeAll(file, Buffer.concat([Buffer.from(MAGIC), length, header, idBytes]), 0);
  };
  await writeFileAtomic(path, produce, { mode: 0o600 }).catch((cause: unknown) => {
    throw asSessionError(path, cause);
  });
}

/**
 * @param placeBlock gets the tokens of the text up to and with block `index`, and its bytes; returns false where no more blocks are wanted
 * @returns the token ids whose blocks were wanted
 * @throws {KvSessionError} if the file is damaged or of another model
 */
export async function readKvSession(
  path: string,
  format: KvSessionFormat,
  placeBlock: (index: number, tokenIds: Int32Array, bytes: Uint8Array) => boolean,
): Promise<Int32Array> {
  const file = await open(path).catch((cause: unknown) => {
    throw asSessionError(path, cause);
  });
  try {
    const { header, headerLength } = await readHeader(file, path);
    checkFormat(path, header, format);
    const { numBlocks, blockBytes, blockSize, checksums } = header;
    let at = MAGIC.length + 4 + headerLength;
    const numTokens = numBlocks * blockSize;
    const { size } = await file.stat();
    const expected = at + 4 * numTokens + numBlocks * blockBytes;
    if (size !== expected) {
      throw new KvSessionError(`${path}: ${size} bytes; its header says ${expected}`);
    }
    const tokenBytes = await readAll(file, path, new Uint8Array(4 * numTokens), at);
    if (crc32(tokenBytes) !== checksums[0]) {
      throw new KvSessionError(`${path}: its token ids are damaged`);
    }
    const view = new DataView(tokenBytes.buffer);
    const tokenIds = Int32Array.from({ length: numTokens }, (_, i) => view.getInt32(4 * i, true));
    at += 4 * numTokens;
    const bytes = new Uint8Array(blockBytes);
    for (let index = 0; index < numBlocks; index++) {
      await readAll(file, path, bytes, at + index * blockBytes);
      if (crc32(bytes) !== checksums[1 + index]) {
        throw new KvSessionError(`${path}: block ${index} of ${numBlocks} is damaged`);
      }
      if (!placeBlock(index, tokenIds, bytes)) return tokenIds.slice(0, index * blockSize);
    }
    return tokenIds;
  } catch (error) {
    throw asSessionError(path, error);
  } finally {
    await file.close();
  }
}

function asSessionError(path: string, cause: unknown): Error {
  if (cause instanceof HastenError) return cause;
  return new KvSessionError(`${path}: ${(cause as Error).message}`, { cause });
}

async function readHeader(
  file: FileHandle,
  path: string,
): Promise<{ header: Header; headerLength: number }> {
  const start = await readAll(file, path, new Uint8Array(MAGIC.length + 4), 0);
  if (Buffer.from(start.buffer, 0, MAGIC.length).toString('latin1') !== MAGIC) {
    throw new KvSessionError(`${path}: not a saved session`);
  }
  const headerLength = new DataView(start.buffer).getUint32(MAGIC.length, true);
  const { size } = await file.stat();
  if (headerLength > Math.min(size, MAX_HEADER_BYTES)) {
    throw new KvSessionError(`${path}: a header of ${headerLength} bytes in a file of ${size}`);
  }
  const text = await readAll(file, path, new Uint8Array(headerLength), start.length);
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder().decode(text));
  } catch (cause) {
    throw new KvSessionError(`${path}: its header is not JSON`, { cause });
  }
  return { header: checkedHeader(path, header), headerLength };
}

function checkedHeader(path: string, value: unknown): Header {
  const header = value as Header;
  const isCount = (n: unknown): boolean => Number.isSafeInteger(n) && (n as number) >= 0;
  const isFine =
    typeof header === 'object' &&
    header !== null &&
    header.version === VERSION &&
    typeof header.fingerprint === 'string' &&
    isCount(header.blockSize) &&
    isCount(header.blockBytes) &&
    isCount(header.numBlocks) &&
    Array.isArray(header.checksums) &&
    header.checksums.length === 1 + header.numBlocks &&
    header.checksums.every(isCount);
  if (!isFine) throw new KvSessionError(`${path}: its header is not one of version ${VERSION}`);
  return header;
}

function checkFormat(path: string, header: Header, format: KvSessionFormat): void {
  for (const key of ['fingerprint', 'blockSize', 'blockBytes'] as const) {
    if (header[key] !== format[key]) {
      throw new KvSessionError(
        `${path}: saved with ${key} ${header[key]}; this engine has ${format[key]}`,
      );
    }
  }
}

function littleEndian(ids: Int32Array): Uint8Array {
  const view = new DataView(new ArrayBuffer(4 * ids.length));
  for (let i = 0; i < ids.length; i++) view.setInt32(4 * i, ids[i]!, true);
  return new Uint8Array(view.buffer);
}

async function writeAll(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}

async function readAll<T extends Uint8Array>(
  file: FileHandle,
  path: string,
  into: T,
  position: number,
): Promise<T> {
  for (let done = 0; done < into.length; ) {
    const { bytesRead } = await file.read(into, done, into.length - done, position + done);
    if (bytesRead === 0) throw new KvSessionError(`${path}: it ends too early`);
    done += bytesRead;
  }
  return into;
}
