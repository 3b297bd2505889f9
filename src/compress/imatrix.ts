/**
 * Importance files of llama.cpp: the mean squared input of each channel, by the name of the tensor that takes it. Two formats, told apart by their first bytes:
 *
 *     GGUF     general.type = "imatrix"; per tensor NAME.in_sum2 f32 [1, columns], the sums, and NAME.counts f32 [1, 1], what to divide by
 *     legacy   i32 entries, then each: i32 length, name, i32 calls, i32 columns, f32 [columns] (the means times calls);  i32 chunks, i32 length, data set
 *
 * All little-endian. Models with experts (several matrices of a tensor) are refused.
 */
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { writeFileAtomic } from '../platform/atomic-file.ts';
import { StringList } from '../platform/string-list.ts';
import { viewBytes } from '../platform/view-bytes.ts';
import { writeGguf } from '../weights/gguf-writer.ts';
import { openWeights } from '../weights/weight-source.ts';
import { CompressError } from './errors.ts';

export interface Imatrix {
  /** Mean squared input per channel, f32 [columns], by GGUF's tensor names. */
  readonly importance: ReadonlyMap<string, Float32Array>;
  /** The text, in words; null where the file does not say. */
  readonly dataset: string | null;
  /** Windows of the text. */
  readonly numChunks: number;
}

/** Names are at most so long in GGUF. */
const MAX_NAME_BYTES = 1024;

/**
 * @throws {CompressError} if the file is none, or holds what is no importance
 * @throws {WeightFileError} if it is a broken GGUF file
 */
export function readImatrix(path: string): Imatrix {
  const imatrix = isGguf(path) ? readGgufImatrix(path) : readLegacyImatrix(path);
  if (imatrix.importance.size === 0) throw new CompressError(`${path}: holds no importance`);
  for (const [name, values] of imatrix.importance) {
    const at = values.findIndex((value) => !(value >= 0 && value < Number.POSITIVE_INFINITY));
    if (at >= 0) {
      throw new CompressError(
        `${path}: importance ${at} of tensor "${name}" is ${values[at]}; expected a number from 0`,
        { tensor: name },
      );
    }
  }
  return imatrix;
}

function isGguf(path: string): boolean {
  const magic = Buffer.alloc(4);
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (cause) {
    throw new CompressError(`${path}: cannot be read: ${(cause as Error).message}`, { cause });
  }
  try {
    readSync(fd, magic, 0, 4, 0);
  } finally {
    closeSync(fd);
  }
  return magic.toString('latin1') === 'GGUF';
}

function readGgufImatrix(path: string): Imatrix {
  using source = openWeights(path);
  if (source.metadata.get('general.type') !== 'imatrix') {
    throw new CompressError(`${path}: is a GGUF file, but no importance matrix`);
  }
  const importance = new Map<string, Float32Array>();
  for (const tensor of source.tensors.keys()) {
    if (!tensor.endsWith('.in_sum2')) continue;
    const name = tensor.slice(0, -'.in_sum2'.length);
    const counts = source.tensors.has(`${name}.counts`) ? source.readF32(`${name}.counts`) : null;
    if (counts?.length !== 1) {
      throw new CompressError(
        `${path}: tensor "${name}" has ${counts?.length ?? 0} counts; expected 1 (models with experts are not supported)`,
        { tensor: name },
      );
    }
    const count = counts[0]!;
    const sums = source.readF32(tensor);
    importance.set(name, count > 0 ? sums.map((sum) => sum / count) : sums.fill(1));
  }
  const datasets = source.metadata.get('imatrix.datasets');
  const first = datasets instanceof StringList ? (datasets.at(0) ?? null) : null;
  const numChunks = Number(source.metadata.get('imatrix.chunk_count') ?? 0);
  return { importance, dataset: first, numChunks };
}

function readLegacyImatrix(path: string): Imatrix {
  const bytes = readFileSync(path);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const broken = (what: string): never => {
    throw new CompressError(
      `${path}: ${what} at byte ${at}; expected an importance matrix (.gguf or .dat)`,
    );
  };
  const int = (what: string, most: number): number => {
    if (at + 4 > bytes.length) broken(`ends within ${what}`);
    const value = view.getInt32(at, true);
    if (value < 0 || value > most) broken(`${what} is ${value}`);
    at += 4;
    return value;
  };
  const text = (what: string): string => {
    const length = int(`the length of ${what}`, MAX_NAME_BYTES);
    if (at + length > bytes.length) broken(`ends within ${what}`);
    at += length;
    return bytes.toString('utf8', at - length, at);
  };
  const importance = new Map<string, Float32Array>();
  const numEntries = int('the number of entries', bytes.length / 12);
  for (let i = 0; i < numEntries; i++) {
    const name = text('a name');
    const calls = int('the number of calls', 2 ** 31 - 1);
    const columns = int('the number of channels', (bytes.length - at - 4) / 4);
    const values = new Float32Array(columns);
    for (let j = 0; j < columns; j++, at += 4) {
      const sum = view.getFloat32(at, true);
      values[j] = calls > 0 ? sum / calls : sum;
    }
    importance.set(name, values);
  }
  if (at === bytes.length) return { importance, dataset: null, numChunks: 0 };
  const numChunks = int('the number of chunks', 2 ** 31 - 1);
  return { importance, dataset: at === bytes.length ? null : text('the data set'), numChunks };
}

/** As GGUF, or in the older format where `path` ends in `.dat`. The file appears when it is complete. */
export async function writeImatrix(
  path: string,
  { importance, dataset, numChunks }: Imatrix,
  chunkTokens: number,
): Promise<void> {
  if (path.endsWith('.dat')) {
    await writeFileAtomic(path, legacyBytes({ importance, dataset, numChunks }));
    return;
  }
  const count = numChunks * chunkTokens;
  await writeGguf(path, {
    metadata: [
      ['general.type', 'imatrix'],
      ['imatrix.datasets', { type: 'array', of: 'string', value: [dataset ?? ''] }],
      ['imatrix.chunk_count', { type: 'u32', value: numChunks }],
      ['imatrix.chunk_size', { type: 'u32', value: chunkTokens }],
    ],
    tensors: [...importance].flatMap(([name, means]) => [
      {
        ...{ name: `${name}.in_sum2`, dtype: 'f32' as const, shape: [1, means.length] },
        data: viewBytes(means.map((mean) => mean * count)),
      },
      {
        ...{ name: `${name}.counts`, dtype: 'f32' as const, shape: [1, 1] },
        data: viewBytes(Float32Array.of(count)),
      },
    ]),
  });
}

function legacyBytes({ importance, dataset, numChunks }: Imatrix): Buffer {
  const int = (value: number): Buffer => {
    const bytes = Buffer.alloc(4);
    bytes.writeInt32LE(value);
    return bytes;
  };
  const text = (value: string): Buffer => {
    const bytes = Buffer.from(value);
    return Buffer.concat([int(bytes.length), bytes]);
  };
  const parts = [int(importance.size)];
  for (const [name, means] of importance) {
    const sums = means.map((mean) => mean * numChunks);
    const bytes = Buffer.from(sums.buffer, sums.byteOffset, sums.byteLength);
    parts.push(text(name), int(numChunks), int(means.length), bytes);
  }
  return Buffer.concat([...parts, int(numChunks), text(dataset ?? '')]);
}
