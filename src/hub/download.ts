/**
 * One file from an address into the blobs folder: resumable, checked, and whole or not there at all.
 * Knows nothing of hubs. The caller holds the repository's lock.
 *
 * Bytes go to `<key>.hasten.incomplete`, beside it a `.json` note of what the server said about the file.
 * A later run hashes what is there and asks for the rest. Only when size and digest are right is the file renamed to its blob name.
 */
import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { contentId, INCOMPLETE_SUFFIX, isMissing, writeFileAtomic } from './cache.ts';
import { DigestError, DiskSpaceError, NetworkError } from './errors.ts';
import {
  type OpenResponse,
  openResponse,
  type RequestOptions,
  withoutQuery,
  withRetries,
} from './http.ts';
import { type ProgressListener, ProgressMeter } from './progress.ts';

/** How a file is known beforehand. `git-sha1` is git's blob id: SHA-1 of `blob <size>\0` and the bytes. */
export interface FileDigest {
  readonly algorithm: 'sha256' | 'git-sha1';
  readonly hex: string;
}

export interface DownloadRequest extends RequestOptions {
  readonly url: string;
  readonly blobsDir: string;
  /** Names the incomplete file, the same in every run. */
  readonly key: string;
  /** The file's name for messages and progress. */
  readonly label: string;
  readonly digest?: FileDigest | undefined;
  readonly sizeBytes?: number | undefined;
  /** Looks at the first bytes (16 at most) of the whole file and throws if they cannot be right. */
  readonly checkHead?: (head: Uint8Array) => void;
  readonly onProgress?: ProgressListener | undefined;
}

export interface DownloadedBlob {
  /** Name in the blobs folder: the digest if known, otherwise the SHA-256 that was computed. */
  readonly blobName: string;
  readonly sizeBytes: number;
}

interface PartialNote {
  /** Stands for the address, which may hold a secret. */
  readonly urlId: string;
  /** Strong ETag or Last-Modified: what `If-Range` needs. */
  readonly validator: string | undefined;
}

interface Partial {
  readonly path: string;
  readonly offset: number;
  readonly hash: Hash;
}

/**
 * @throws {DigestError} if the bytes are wrong; {DiskSpaceError}; {NetworkError} or {AccessError} after retries;
 *   the reason of `signal`. In all but the first the incomplete file stays, to be resumed.
 */
export async function downloadBlob(request: DownloadRequest): Promise<DownloadedBlob> {
  await fs.mkdir(request.blobsDir, { recursive: true });
  const path = join(request.blobsDir, request.key + INCOMPLETE_SUFFIX);
  const meter = new ProgressMeter(request.label, request.onProgress);
  const resumed = await openPartial(request, path, meter);
  try {
    return await finishDownload(request, resumed, meter);
  } catch (error) {
    // What an earlier run left may have been something else: once more, from nothing.
    if (!(error instanceof DigestError) || resumed.offset === 0) throw error;
    return await finishDownload(request, freshPartial(request, path), meter);
  }
}

/** The rest of the file, checked and named. Wrong bytes are removed. */
async function finishDownload(
  request: DownloadRequest,
  start: Partial,
  meter: ProgressMeter,
): Promise<DownloadedBlob> {
  try {
    return await commit(request, await receiveAll(request, start, meter), meter);
  } catch (error) {
    if (error instanceof DigestError) await discard(start.path);
    throw error;
  }
}

async function receiveAll(
  request: DownloadRequest,
  start: Partial,
  meter: ProgressMeter,
): Promise<Partial> {
  if (start.offset > 0 && start.offset === request.sizeBytes) return start;
  let partial = start;
  return await withRetries(request.policy, request.signal, async (progressed) => {
    const before = partial.offset;
    const transfer = { ...partial };
    try {
      return await receive(request, transfer, meter);
    } catch (error) {
      if (transfer.offset > before) progressed();
      throw asDiskError(error, partial.path, remaining(request, transfer.offset));
    } finally {
      partial = transfer; // what has come so far counts for the next try
    }
  });
}

/** Receives from `transfer.offset` on; moves `offset` and `hash` along as bytes reach the disk. */
async function receive(
  request: DownloadRequest,
  transfer: { path: string; offset: number; hash: Hash },
  meter: ProgressMeter,
): Promise<Partial> {
  const shown = withoutQuery(request.url);
  const note = transfer.offset > 0 ? await readNote(transfer.path) : undefined;
  const opened = await openResponse(request.url, {
    ...request,
    headers: { ...request.headers, ...rangeHeaders(request, transfer.offset, note) },
  });
  let file: fs.FileHandle | undefined;
  try {
    const { response } = opened;
    if (!continuesAt(response, transfer.offset, request.sizeBytes)) {
      if (response.status === 416) {
        transfer.offset = 0;
        transfer.hash = newHash(request);
        await discard(transfer.path);
        throw new NetworkError(shown, 'interrupted', 'the server refused the range');
      }
      transfer.offset = 0; // the whole file comes
      transfer.hash = newHash(request);
    }
    const announcedBytes = totalOf(response, transfer.offset);
    const totalBytes = request.sizeBytes ?? announcedBytes;
    if (announcedBytes !== undefined && announcedBytes !== totalBytes) {
      throw new DigestError(
        request.label,
        'size',
        `${totalBytes} bytes`,
        `${announcedBytes} bytes`,
      );
    }
    await checkRoom(request, totalBytes === undefined ? undefined : totalBytes - transfer.offset);

    file = await fs.open(transfer.path, transfer.offset === 0 ? 'w' : 'r+');
    if (transfer.offset === 0) await writeNote(transfer.path, request.url, response);
    meter.start('downloading', transfer.offset, totalBytes);
    await writeChunks(opened, file, transfer, (received) => {
      if (totalBytes !== undefined && received > totalBytes) {
        throw new DigestError(request.label, 'size', `${totalBytes} bytes`, 'more');
      }
      meter.advance('downloading', received, totalBytes);
    });
    if (totalBytes !== undefined && transfer.offset < totalBytes) {
      throw new NetworkError(
        shown,
        'interrupted',
        `ended after ${transfer.offset} of ${totalBytes} bytes`,
      );
    }
    await file.sync(); // the rename must not reach the disk before the bytes do
    return transfer;
  } finally {
    opened.close();
    await file?.close();
  }
}

/** Positional writes: two writers of the same file (a lock lost in between) write the same bytes. */
async function writeChunks(
  opened: OpenResponse,
  file: fs.FileHandle,
  transfer: { offset: number; hash: Hash },
  onReceived: (bytes: number) => void,
): Promise<void> {
  for await (const chunk of opened.chunks()) {
    let written = 0;
    while (written < chunk.length) {
      const result = await file.write(
        chunk,
        written,
        chunk.length - written,
        transfer.offset + written,
      );
      written += result.bytesWritten;
    }
    transfer.hash.update(chunk);
    transfer.offset += chunk.length;
    onReceived(transfer.offset);
  }
}

/** Checks the complete file and gives it its name. */
async function commit(
  request: DownloadRequest,
  { path, offset, hash }: Partial,
  meter: ProgressMeter,
): Promise<DownloadedBlob> {
  const { digest, label, sizeBytes } = request;
  if (sizeBytes !== undefined && offset !== sizeBytes) {
    throw new DigestError(label, 'size', `${sizeBytes} bytes`, `${offset} bytes`);
  }
  const actual = hash.digest('hex');
  if (digest !== undefined && actual !== digest.hex) {
    throw new DigestError(label, digest.algorithm, digest.hex, actual);
  }
  if (request.checkHead !== undefined) request.checkHead(await readHead(path));
  const blobName = digest?.hex ?? actual;
  await fs.rename(path, join(request.blobsDir, blobName));
  await fs.rm(notePath(path), { force: true });
  meter.finish(offset);
  return { blobName, sizeBytes: offset };
}

/** What an earlier run left, hashed; nothing usable: offset 0. */
async function openPartial(
  request: DownloadRequest,
  path: string,
  meter: ProgressMeter,
): Promise<Partial> {
  const sizeBytes = await sizeOf(path);
  const isUsable =
    sizeBytes !== undefined &&
    sizeBytes > 0 &&
    sizeBytes <= (request.sizeBytes ?? Number.POSITIVE_INFINITY);
  if (!isUsable) return freshPartial(request, path);
  const hash = newHash(request);
  let offset = 0;
  meter.start('verifying', 0, sizeBytes);
  const stream = createReadStream(path, { highWaterMark: 2 ** 20, signal: request.signal });
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      hash.update(chunk);
      offset += chunk.length;
      meter.advance('verifying', offset, sizeBytes);
    }
  } catch (error) {
    request.signal?.throwIfAborted();
    throw error;
  }
  return { path, offset, hash };
}

function freshPartial(request: DownloadRequest, path: string): Partial {
  return { path, offset: 0, hash: newHash(request) };
}

function newHash({ digest, sizeBytes }: DownloadRequest): Hash {
  if (digest?.algorithm !== 'git-sha1') return createHash('sha256');
  return createHash('sha1').update(`blob ${sizeBytes ?? 0}\0`);
}

function rangeHeaders(
  request: DownloadRequest,
  offset: number,
  note: PartialNote | undefined,
): Record<string, string> {
  if (offset === 0) return {};
  const range = { range: `bytes=${offset}-` };
  // With a digest the end result is checked anyway, and hubs redirect to mirrors whose validators differ.
  if (request.digest !== undefined) return range;
  if (note?.validator === undefined || note.urlId !== contentId(request.url)) return {};
  return { ...range, 'if-range': note.validator };
}

/** Whether the body begins at `offset` of the file (some servers answer a range with status 200). */
function continuesAt(response: Response, offset: number, sizeBytes: number | undefined): boolean {
  if (offset === 0) return response.status === 200;
  const start = /^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '')?.[1];
  if (start !== undefined) return Number(start) === offset;
  if (response.status === 206) return true;
  return (
    response.status === 200 &&
    sizeBytes !== undefined &&
    Number(response.headers.get('content-length') ?? Number.NaN) === sizeBytes - offset
  );
}

function totalOf(response: Response, offset: number): number | undefined {
  if ((response.headers.get('content-encoding') ?? 'identity') !== 'identity') return undefined;
  const total = /\/(\d+)$/.exec(response.headers.get('content-range') ?? '')?.[1];
  if (total !== undefined) return Number(total);
  const length = response.headers.get('content-length');
  return length === null ? undefined : offset + Number(length);
}

async function checkRoom(request: DownloadRequest, neededBytes: number | undefined): Promise<void> {
  if (neededBytes === undefined) return;
  const { bavail, bsize } = await fs.statfs(request.blobsDir);
  const freeBytes = bavail * bsize;
  if (freeBytes < neededBytes) throw new DiskSpaceError(request.blobsDir, neededBytes, freeBytes);
}

function remaining(request: DownloadRequest, offset: number): number | undefined {
  return request.sizeBytes === undefined ? undefined : request.sizeBytes - offset;
}

/** A full disk or quota as our own error; anything else as it is. */
export function asDiskError(error: unknown, path: string, neededBytes?: number): unknown {
  const code = (error as NodeJS.ErrnoException | undefined)?.code ?? '';
  if (!['ENOSPC', 'EDQUOT', 'EFBIG'].includes(code)) return error;
  return new DiskSpaceError(path, neededBytes, undefined, { cause: error });
}

async function writeNote(path: string, url: string, response: Response): Promise<void> {
  const etag = response.headers.get('etag');
  const isStrong = etag !== null && !etag.startsWith('W/');
  const validator = isStrong ? etag : (response.headers.get('last-modified') ?? undefined);
  await writeFileAtomic(notePath(path), JSON.stringify({ urlId: contentId(url), validator }));
}

async function readNote(path: string): Promise<PartialNote | undefined> {
  try {
    const note = JSON.parse(await fs.readFile(notePath(path), 'utf8')) as Record<string, unknown>;
    if (typeof note.urlId !== 'string') return undefined;
    return {
      urlId: note.urlId,
      validator: typeof note.validator === 'string' ? note.validator : undefined,
    };
  } catch {
    return undefined;
  }
}

function notePath(path: string): string {
  return `${path}.json`;
}

async function discard(path: string): Promise<void> {
  await fs.rm(path, { force: true });
  await fs.rm(notePath(path), { force: true });
}

async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await fs.stat(path)).size;
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

async function readHead(path: string): Promise<Uint8Array> {
  const file = await fs.open(path, 'r');
  try {
    const head = new Uint8Array(16);
    const { bytesRead } = await file.read(head, 0, 16, 0);
    return head.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}
