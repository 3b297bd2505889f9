/**
 * The cache of plans and machine code: what a start decided and emitted, for the next start with the same model, settings, processor and version of hasten.
 *
 * It lives in the user's own folder (0700, files 0600) and is trusted like the program itself; a folder or file that others may write is not used. Nothing in
 * it is ever shared: plan files for others hold weights only (plan-cache.ts). Saves lowering, planning and emitting, some 100 ms of cold start.
 *
 *     0    "HASTENS2"
 *     8    SHA-256 of all that follows
 *     40   u32 length of the JSON head
 *     44   JSON { key, plan, kernels: [{ name, params, scratchBytes, codeBytes }] }
 *          code of the kernels, one after another
 */
import { createHash, hash } from 'node:crypto';
import {
  closeSync,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  unlinkSync,
} from 'node:fs';
import path from 'node:path';
import type { EmittedKernel } from '../compiler/emit.ts';
import type { Plan } from '../compiler/plan.ts';
import { writeFileAtomic } from '../platform/atomic-file.ts';
import { codeVersion } from './code-version.ts';

const MAGIC = 'HASTENS2';
const DIGEST_BYTES = 32;
const SUFFIX = '.start';
const OTHERS_MAY_WRITE = 0o022;
/** Half a megabyte each; the oldest go. */
const MAX_FILES = 64;

export interface CompiledPlan {
  readonly plan: Plan;
  readonly kernels: readonly EmittedKernel[];
}

interface Head {
  readonly key: string;
  readonly plan: Plan;
  readonly kernels: readonly (Omit<EmittedKernel, 'code'> & { readonly codeBytes: number })[];
}

/** Digest of everything that decides plan and code; `parts` must be plain data. */
export function startKey(parts: unknown): string {
  return createHash('sha256').update(codeVersion()).update(JSON.stringify(parts)).digest('hex');
}

function fileOf(folder: string, key: string): string {
  return path.join(folder, `${key}${SUFFIX}`);
}

/** What an earlier start stored under `key`, or null. */
export function readStart(folder: string, key: string): CompiledPlan | null {
  let bytes: Buffer;
  try {
    if (!isPrivate(statSync(folder))) return null;
    const fd = openSync(fileOf(folder, key), 'r');
    try {
      if (!isPrivate(fstatSync(fd))) return null;
      bytes = readFileSync(fd);
    } finally {
      closeSync(fd);
    }
  } catch {
    return null;
  }
  return parse(bytes, key);
}

function isPrivate({ uid, mode }: { uid: number; mode: number }): boolean {
  return uid === process.getuid?.() && (mode & OTHERS_MAY_WRITE) === 0;
}

function parse(bytes: Buffer, key: string): CompiledPlan | null {
  const lengthAt = MAGIC.length + DIGEST_BYTES;
  const headAt = lengthAt + 4;
  if (bytes.length < headAt || bytes.toString('latin1', 0, MAGIC.length) !== MAGIC) return null;
  // Code is run as it is, so a bit that a disk has lost must not get as far. 0.3 ms for half a megabyte.
  const digest = bytes.subarray(MAGIC.length, lengthAt);
  if (!digest.equals(hash('sha256', bytes.subarray(lengthAt), 'buffer'))) return null;
  const codeAt = headAt + bytes.readUInt32LE(lengthAt);
  if (bytes.length < codeAt) return null;
  const head = JSON.parse(bytes.toString('utf8', headAt, codeAt)) as Head;
  if (head.key !== key) return null;
  let at = codeAt;
  const kernels = head.kernels.map(({ codeBytes, ...kernel }) => {
    const code = bytes.subarray(at, at + codeBytes);
    at += codeBytes;
    return { ...kernel, code };
  });
  return at === bytes.length ? { plan: head.plan, kernels } : null;
}

/** Stores what this start made; a cache that cannot be written costs the next start some time and nothing else. */
export async function writeStart(
  folder: string,
  key: string,
  { plan, kernels }: CompiledPlan,
): Promise<void> {
  const head: Head = {
    key,
    plan,
    kernels: kernels.map(({ code, ...kernel }) => ({ ...kernel, codeBytes: code.length })),
  };
  const json = Buffer.from(JSON.stringify(head));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(json.length);
  const body = Buffer.concat([length, json, ...kernels.map((k) => k.code)]);
  const start = [Buffer.from(MAGIC, 'latin1'), hash('sha256', body, 'buffer')];
  try {
    await writeFileAtomic(fileOf(folder, key), Buffer.concat([...start, body]), { mode: 0o600 });
    removeOldest(folder);
  } catch {
    // Read-only or full: the weights cache beside it has said so already.
  }
}

function removeOldest(folder: string): void {
  const files = readdirSync(folder)
    .filter((name) => name.endsWith(SUFFIX))
    .map((name) => path.join(folder, name))
    .map((file) => ({ file, mtimeMs: statSync(file).mtimeMs }))
    .sort((a, b) => b.mtimeMs - a.mtimeMs);
  for (const { file } of files.slice(MAX_FILES)) unlinkSync(file);
}
