/**
 * A model in GGUF: one file, or a split of files `<prefix>-00001-of-000NN.gguf` of which any may be named. Metadata is the first
 * file's. Knows nothing of the bytes of the header (gguf-header.ts) nor of reading tensors (tensor-reader.ts).
 */
import { basename, dirname, join } from 'node:path';
import type { GgufValue, WeightSource } from './contract.ts';
import { quoted, type WeightFault, WeightFileError } from './errors.ts';
import { type GgufHeader, readGgufHeader } from './gguf-header.ts';
import { PositionedFile } from './positioned-file.ts';
import { type TensorPlace, TensorReader } from './tensor-reader.ts';

/** Every file stays open; a process may have 1024. */
const MAX_SPLITS = 512;

const SPLIT_NAME = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/s;

/**
 * Opens a GGUF model.
 *
 * @param path      a GGUF file; of a split, any one
 * @param namedPath what the user named, where that is not the file itself
 * @throws {WeightFileError} if a file is missing or unsound, or the files do not belong together
 */
export function openGguf(path: string, namedPath = path): WeightSource {
  const files: PositionedFile[] = [];
  try {
    return openAll(path, namedPath, files);
  } catch (error) {
    for (const file of files) file.close();
    throw error;
  }
}

/** @param files receives each file as it is opened */
function openAll(path: string, namedPath: string, files: PositionedFile[]): WeightSource {
  const named = new PositionedFile(path);
  files.push(named);
  const namedHeader = readGgufHeader(named);
  const splitCount = integerEntry(namedHeader, named.path, 'split.count') ?? 1;
  if (splitCount <= 1) {
    return new TensorReader({
      format: 'gguf',
      path: namedPath,
      files,
      places: placesOf(namedHeader, named),
      metadata: metadataOf(namedHeader),
    });
  }
  const { namedIndex, paths } = pathsOfSplit(path, splitCount);
  const parts = paths.map((partPath, index) => {
    if (index === namedIndex) {
      return { file: named, header: checkSplit(namedHeader, named.path, index, splitCount) };
    }
    const file = openPart(partPath, path, splitCount);
    files.push(file);
    return { file, header: checkSplit(readGgufHeader(file), file.path, index, splitCount) };
  });
  const places = parts.flatMap(({ file, header }) => placesOf(header, file));
  checkWholeSplit(path, parts[0]!.header, places);
  return new TensorReader({
    format: 'gguf',
    path: namedPath,
    files: parts.map(({ file }) => file),
    places,
    metadata: metadataOf(parts[0]!.header),
  });
}

function splitError(
  file: string,
  fault: WeightFault,
  message: string,
  values: Readonly<Record<string, number | string>>,
  cause?: unknown,
): WeightFileError {
  return new WeightFileError(message, { fault, file, values, cause });
}

function pathsOfSplit(path: string, splitCount: number): { namedIndex: number; paths: string[] } {
  const match = SPLIT_NAME.exec(basename(path));
  if (match === null) {
    throw splitError(
      path,
      'incomplete',
      `is one of ${splitCount} files of a split model, but its name does not say which; expected <name>-00001-of-${String(splitCount).padStart(5, '0')}.gguf. Rename it as it was, with the others beside it.`,
      { splitCount },
    );
  }
  const [, prefix, number, count] = match;
  if (Number(count) !== splitCount) {
    throw splitError(
      path,
      'incomplete',
      `its name says ${Number(count)} files, its metadata "split.count" ${splitCount}`,
      { nameCount: Number(count), splitCount },
    );
  }
  if (splitCount > MAX_SPLITS) {
    throw splitError(
      path,
      'limit',
      `is split into ${splitCount} files; accepted: up to ${MAX_SPLITS}`,
      {
        splitCount,
      },
    );
  }
  const namedIndex = Number(number) - 1;
  if (namedIndex < 0 || namedIndex >= splitCount) {
    throw splitError(
      path,
      'incomplete',
      `its name says file ${Number(number)} of ${splitCount}; files count from 1`,
      { number: Number(number), splitCount },
    );
  }
  const paths = Array.from({ length: splitCount }, (_, index) =>
    join(dirname(path), `${prefix}-${String(index + 1).padStart(5, '0')}-of-${count}.gguf`),
  );
  return { namedIndex, paths };
}

function openPart(path: string, named: string, splitCount: number): PositionedFile {
  try {
    return new PositionedFile(path);
  } catch (cause) {
    throw splitError(
      path,
      'incomplete',
      `cannot be opened, but ${basename(named)} is one of ${splitCount} files and all are needed: ${cause instanceof Error ? cause.message : String(cause)}`,
      { splitCount },
      cause,
    );
  }
}

function checkSplit(
  header: GgufHeader,
  file: string,
  index: number,
  splitCount: number,
): GgufHeader {
  const no = integerEntry(header, file, 'split.no');
  const count = integerEntry(header, file, 'split.count');
  if (no !== index || count !== splitCount) {
    throw splitError(
      file,
      'incomplete',
      `says it is split ${no ?? 'unstated'} of ${count ?? 'unstated'} (counted from 0); expected ${index} of ${splitCount}. Files of different models may be mixed.`,
      { splitNo: no ?? 'unstated', splitCount: count ?? 'unstated', expectedNo: index },
    );
  }
  return header;
}

function checkWholeSplit(path: string, first: GgufHeader, places: readonly TensorPlace[]): void {
  const announced = integerEntry(first, path, 'split.tensors.count');
  if (announced !== undefined && announced !== places.length) {
    throw splitError(
      path,
      'incomplete',
      `the files of the split hold ${places.length} tensors; metadata "split.tensors.count" says ${announced}`,
      { numTensors: places.length, announced },
    );
  }
  const seen = new Map<string, string>();
  for (const { tensor, file } of places) {
    const other = seen.get(tensor.name);
    if (other !== undefined) {
      throw new WeightFileError(`is also in ${quoted(other)}`, {
        fault: 'corrupt',
        file: file.path,
        tensor: tensor.name,
        values: { otherFile: other },
      });
    }
    seen.set(tensor.name, file.path);
  }
}

function integerEntry(header: GgufHeader, file: string, key: string): number | undefined {
  const value = header.entries.get(key)?.value;
  if (value === undefined) return undefined;
  if (typeof value !== 'number' || !Number.isInteger(value)) {
    const shown = typeof value === 'object' ? 'an array' : quoted(String(value));
    throw splitError(file, 'corrupt', `metadata "${key}" is ${shown}; expected an integer`, {
      value: shown,
    });
  }
  return value;
}

function placesOf(header: GgufHeader, file: PositionedFile): TensorPlace[] {
  return header.tensors.map(({ position, ...tensor }) => ({ tensor, file, position }));
}

/** Values by key, each asked of its entry: long lists are decoded when someone wants them. */
class EntryValues implements ReadonlyMap<string, GgufValue> {
  readonly #entries: GgufHeader['entries'];

  constructor(entries: GgufHeader['entries']) {
    this.#entries = entries;
  }

  get size(): number {
    return this.#entries.size;
  }

  get(key: string): GgufValue | undefined {
    return this.#entries.get(key)?.value;
  }

  has(key: string): boolean {
    return this.#entries.has(key);
  }

  keys(): MapIterator<string> {
    return this.#entries.keys();
  }

  values(): MapIterator<GgufValue> {
    return this.#entries.values().map(({ value }) => value);
  }

  entries(): MapIterator<[string, GgufValue]> {
    return this.#entries.entries().map(([key, { value }]): [string, GgufValue] => [key, value]);
  }

  [Symbol.iterator](): MapIterator<[string, GgufValue]> {
    return this.entries();
  }

  forEach(
    visit: (value: GgufValue, key: string, map: ReadonlyMap<string, GgufValue>) => void,
  ): void {
    for (const [key, value] of this) visit(value, key, this);
  }
}

function metadataOf({ entries }: GgufHeader): ReadonlyMap<string, GgufValue> {
  return new EntryValues(entries);
}
