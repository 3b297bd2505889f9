/**
 * A GGUF model → the same model with its matrices in other ggml types, streamed: a few megabytes of weights are in memory at a time. Metadata are copied
 * with their stored types. Knows nothing of calibration; an importance per tensor may be given.
 */

import { viewBytes } from '../platform/view-bytes.ts';
import { DTYPES, type DType, rowBytes } from '../tensor/dtype.ts';
import { canDecode } from '../tensor/rows.ts';
import type { WeightSource } from '../weights/contract.ts';
import { type GgufEntry, readGgufHeader } from '../weights/gguf-header.ts';
import { type GgufToWrite, type TensorToWrite, writeGguf } from '../weights/gguf-writer.ts';
import { PositionedFile } from '../weights/positioned-file.ts';
import { EncoderTeam } from './encoder-team.ts';
import { CompressError } from './errors.ts';
import { matrixShape } from './matrix-rows.ts';

/** As the writer takes them. */
type MetadataValue =
  GgufToWrite['metadata'] extends Iterable<readonly [string, infer V]> ? V : never;
export type MetadataToWrite = ReadonlyMap<string, MetadataValue>;

export interface QuantizeGgufOptions {
  /** The type of each tensor of the new file; what it returns for a tensor as it is stored leaves that tensor's bytes alone. */
  typeOf(tensor: { name: string; shape: readonly number[]; dtype: DType }): DType;
  /** Goes to `general.file_type`. */
  readonly fileType: number;
  /** Mean squared input per channel, by tensor name, f32 [columns]. */
  readonly importance?: ReadonlyMap<string, Float32Array>;
  /** Values that take the place of stored ones, f32 [rows, columns]: what a calibrated method made of them. */
  readonly replaced?: ReadonlyMap<string, Float32Array>;
  /** All metadata, for a source that is no GGUF file; otherwise the file's own. */
  readonly ownMetadata?: MetadataToWrite;
  /** Further metadata, in place of what the file says under the same key. */
  readonly metadata?: ReadonlyMap<string, GgufEntry>;
  onProgress?(doneBytes: number, totalBytes: number): void;
  readonly signal?: AbortSignal;
  /** That encode; one per core where left out. */
  readonly threads?: number;
}

/** Encoded at a time by one thread: a tenth of a second where no kernel does it. */
const ENCODED_ELEMENTS = 1 << 18;

export interface QuantizedFile {
  readonly sizeBytes: number;
  /** Bits of all tensors, per element. */
  readonly bitsPerWeight: number;
  readonly tensors: readonly { name: string; from: DType; to: DType; elements: number }[];
}

/**
 * @param source an open GGUF model
 * @param path of the new file; appears only when it is complete
 * @throws {CompressError} if `source` is no GGUF model or a tensor cannot be decoded
 * @throws {NonFiniteWeightError} if a weight is NaN or infinite
 */
export async function quantizeGguf(
  source: WeightSource,
  path: string,
  options: QuantizeGgufOptions,
): Promise<QuantizedFile> {
  if (source.format !== 'gguf') {
    throw new CompressError(`${source.path}: is a safetensors model and was not converted`);
  }
  const { signal, importance, replaced } = options;
  const chosen = [...source.tensors.values()].map((tensor) => ({
    tensor,
    to: options.typeOf(tensor),
  }));
  const totalBytes = chosen.reduce((sum, { tensor }) => sum + tensor.sizeBytes, 0);
  const encoded = chosen.filter(({ tensor, to }) => tensor.dtype !== to);
  using team = new EncoderTeam(
    options.threads ?? null,
    encoded.reduce((sum, { tensor }) => sum + elementsOf(tensor), 0),
  );
  let doneBytes = 0;
  const report = (bytes: number): void => {
    doneBytes += bytes;
    options.onProgress?.(doneBytes, totalBytes);
    signal?.throwIfAborted();
  };
  const tensors = chosen.map(({ tensor, to }): TensorToWrite => {
    const { name, dtype, shape } = tensor;
    const isChanged = dtype !== to || options.replaced?.has(name) === true;
    if (isChanged && !canDecode(dtype)) {
      throw new CompressError(`tensor "${name}": ${dtype} cannot be decoded`, { tensor: name });
    }
    const data = isChanged
      ? () => encodedRows(source, name, to, { importance, replaced, team, report })
      : () => copiedRows(source, name, report);
    return { name, dtype: to, shape, data };
  });
  const sizeBytes = await writeGguf(path, { metadata: metadataOf(source, options), tensors });
  const changes = chosen.map(({ tensor, to }) => ({
    name: tensor.name,
    from: tensor.dtype,
    to,
    elements: elementsOf(tensor),
  }));
  const elements = changes.reduce((sum, change) => sum + change.elements, 0);
  const bits = changes.reduce((sum, change) => sum + 8 * typeBytes(change.to, change.elements), 0);
  return { sizeBytes, bitsPerWeight: bits / elements, tensors: changes };
}

function elementsOf({ shape }: { readonly shape: readonly number[] }): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

function typeBytes(dtype: DType, elements: number): number {
  return (elements / DTYPES[dtype].blockElements) * DTYPES[dtype].blockBytes;
}

function metadataOf(
  source: WeightSource,
  { fileType, metadata, ownMetadata }: QuantizeGgufOptions,
): GgufToWrite['metadata'] {
  const entries = new Map<string, MetadataValue>(ownMetadata ?? storedMetadata(source));
  entries.set('general.file_type', { type: 'u32', value: fileType });
  entries.set('general.quantization_version', { type: 'u32', value: 2 });
  for (const [key, entry] of metadata ?? []) entries.set(key, entry);
  return entries;
}

/** With their stored types: a plain 100000 does not say that it is an f32. */
function storedMetadata(source: WeightSource): Map<string, GgufEntry> {
  using file = new PositionedFile(source.files[0]!);
  const entries = new Map(readGgufHeader(file).entries);
  for (const key of entries.keys()) if (key.startsWith('split.')) entries.delete(key);
  return entries;
}

function* copiedRows(
  source: WeightSource,
  name: string,
  report: (bytes: number) => void,
): Generator<Uint8Array> {
  const { shape, sizeBytes } = source.tensors.get(name)!;
  const rows = shape.length > 1 ? shape[0]! : 1;
  const step = Math.max(1, Math.floor((1 << 22) / Math.max(1, sizeBytes / rows)));
  for (let row = 0; row < rows; row += step) {
    const bytes = source.readRows(name, row, Math.min(rows, row + step));
    yield bytes;
    report(bytes.length);
  }
}

interface RowEncoding extends Pick<QuantizeGgufOptions, 'importance' | 'replaced'> {
  readonly team: EncoderTeam;
  report(bytes: number): void;
}

async function* encodedRows(
  source: WeightSource,
  name: string,
  to: DType,
  { importance, replaced, team, report }: RowEncoding,
): AsyncGenerator<Uint8Array> {
  const { rows, columns } = matrixShape(source, name);
  const { sizeBytes } = source.tensors.get(name)!;
  const channels = importance?.get(name) ?? null;
  if (channels !== null && channels.length !== columns) {
    throw new CompressError(
      `tensor "${name}": the importance has ${channels.length} channels, the rows have ${columns}`,
      { tensor: name },
    );
  }
  // In order, though several are made at once.
  const made: { numRows: number; encoded: Promise<Uint8Array> }[] = [];
  const next = async (): Promise<Uint8Array> => {
    const { numRows, encoded } = made.shift()!;
    const bytes = await encoded;
    report((sizeBytes * numRows) / rows);
    return bytes;
  };
  const given = replaced?.get(name);
  for (const { firstRow, numRows, from, stored } of storedRows(source, name, given, team)) {
    const job = { tensor: name, firstRow, from, to, stored, columns, channels };
    const encoded = team.encode(job);
    encoded.catch(() => {}); // Told when its turn comes.
    made.push({ numRows, encoded });
    if (made.length >= team.depth) yield await next();
  }
  while (made.length > 0) yield await next();
}

interface StoredRows {
  readonly firstRow: number;
  readonly numRows: number;
  readonly from: DType;
  readonly stored: Uint8Array;
}

/** Some rows of a matrix at a time: of the values that take its place, or as they are stored; in memory of the team's. */
function* storedRows(
  source: WeightSource,
  name: string,
  given: Float32Array | undefined,
  team: EncoderTeam,
): Generator<StoredRows> {
  const { rows, columns } = matrixShape(source, name);
  const { dtype, shape } = source.tensors.get(name)!;
  const from = given === undefined ? dtype : 'f32';
  // A stored row is all but the first dimension.
  const numStored = shape.length > 1 ? shape[0]! : 1;
  const perStored = rows / numStored;
  const step = Math.max(1, Math.floor(ENCODED_ELEMENTS / (columns * perStored)));
  for (let start = 0; start < numStored; start += step) {
    const end = Math.min(numStored, start + step);
    const firstRow = start * perStored;
    const numRows = (end - start) * perStored;
    const stored = team.buffer(numRows * rowBytes(from, columns));
    if (given === undefined) source.readRows(name, start, end, stored);
    else stored.set(viewBytes(given.subarray(firstRow * columns, (firstRow + numRows) * columns)));
    yield { firstRow, numRows, from, stored };
  }
}
