/**
 * The way in: a path that the user named -> an open {@link WeightSource}. Decides by content what a file is, and which file of a
 * folder to open. Knows nothing of what is in the files.
 */
import { Buffer } from 'node:buffer';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { WeightSource } from './contract.ts';
import { WeightFileError } from './errors.ts';
import { openGguf } from './gguf-source.ts';
import { PositionedFile } from './positioned-file.ts';
import { openSafetensorsFile, openSafetensorsIndex } from './safetensors-source.ts';

export type { GgufArray, GgufValue, WeightSource, WeightTensor } from './contract.ts';
export { WeightFileError } from './errors.ts';

const SINGLE_NAME = 'model.safetensors';
const INDEX_NAME = 'model.safetensors.index.json';

/** What a path turned out to be, and the file to open first. */
type Found =
  | { readonly kind: 'gguf'; readonly file: string }
  | { readonly kind: 'safetensors'; readonly file: string }
  | { readonly kind: 'safetensors-index'; readonly file: string };

/**
 * Opens a model's weights: a GGUF file (of a split, any of its files), a safetensors file, its index, or a folder that holds
 * `model.safetensors`, `model.safetensors.index.json` or a single GGUF model. Only headers are read.
 *
 * @throws {WeightFileError} if it is none of these, or anything in it is unsound
 */
export function openWeights(path: string): WeightSource {
  const found = find(path);
  switch (found.kind) {
    case 'gguf':
      return openGguf(found.file, path);
    case 'safetensors':
      return openSafetensorsFile(found.file, path);
    case 'safetensors-index':
      return openSafetensorsIndex(found.file, path);
    default:
      return found satisfies never;
  }
}

/**
 * Which format a file or folder has, by its first bytes (or, for a folder, by what it holds), without checking the rest.
 *
 * @throws {WeightFileError} if it is neither, or cannot be read
 */
export function detectFormat(path: string): 'gguf' | 'safetensors' {
  return find(path).kind === 'gguf' ? 'gguf' : 'safetensors';
}

function find(path: string): Found {
  return isFolder(path) ? findInFolder(path) : recognise(path);
}

/** False too where this cannot be told: opening it then says why. */
function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}

function findInFolder(folder: string): Found {
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch (cause) {
    throw new WeightFileError('folder cannot be listed', {
      fault: 'unreadable',
      file: folder,
      cause,
    });
  }
  if (names.includes(SINGLE_NAME)) return { kind: 'safetensors', file: join(folder, SINGLE_NAME) };
  if (names.includes(INDEX_NAME)) {
    return { kind: 'safetensors-index', file: join(folder, INDEX_NAME) };
  }
  // A split counts once, by its first file.
  const ggufNames = names.filter(
    (name) => name.endsWith('.gguf') && !/-(?!00001)\d{5}-of-\d{5}\.gguf$/.test(name),
  );
  if (ggufNames.length === 1) return { kind: 'gguf', file: join(folder, ggufNames[0]!) };
  const choices = ggufNames.sort().slice(0, 8).join(', ');
  const wayOut = names.some((name) => /^pytorch_model.*\.bin$/.test(name))
    ? '; PyTorch .bin files are not read: save the model with transformers, save_pretrained(..., safe_serialization=True)'
    : '';
  throw new WeightFileError(
    ggufNames.length === 0
      ? `folder has no ${SINGLE_NAME}, no ${INDEX_NAME} and no GGUF file${wayOut}`
      : `folder has ${ggufNames.length} GGUF models (${choices}${ggufNames.length > 8 ? ', ...' : ''}); name one of them`,
    { fault: 'unrecognised', file: folder, values: { numGgufFiles: ggufNames.length } },
  );
}

/** By content, not by name: 'GGUF', or a header length and '{', or '{' for an index. */
function recognise(path: string): Found {
  using file = new PositionedFile(path);
  const start = Buffer.alloc(Math.min(9, file.sizeBytes));
  file.readInto(start, 0);
  if (start.toString('latin1', 0, 4) === 'GGUF') return { kind: 'gguf', file: path };
  if (path.endsWith('.json')) return { kind: 'safetensors-index', file: path };
  if (start[8] === 0x7b || path.endsWith('.safetensors'))
    return { kind: 'safetensors', file: path };
  if (path.endsWith('.gguf')) return { kind: 'gguf', file: path };
  throw new WeightFileError(
    `is neither GGUF nor safetensors: its first bytes are ${start.toString('hex') || 'missing'} (${file.sizeBytes} bytes in all)`,
    {
      fault: 'unrecognised',
      file: path,
      values: { firstBytes: start.toString('hex'), sizeBytes: file.sizeBytes },
    },
  );
}
