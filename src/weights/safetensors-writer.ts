/**
 * Writes one safetensors file, streaming. Knows nothing of shards or tensor contents.
 */
import { Buffer } from 'node:buffer';
import { WeightFileError } from './errors.ts';
import { writeFileByAppending } from './file-appender.ts';
import { safetensorsOfDtype } from './safetensors-types.ts';
import { appendTensor, checkUniqueNames, sizeOfTensor, type TensorToWrite } from './tensor-data.ts';

export interface SafetensorsToWrite {
  /** Tensors in the order of their data. */
  readonly tensors: readonly TensorToWrite[];
  /** Goes to `__metadata__`. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/**
 * Writes `model` under a temporary name, syncs it and renames it to `path`. The header is padded to 8 bytes, as the Rust library does.
 *
 * @returns size of the file in bytes
 * @throws {WeightFileError} if a name is given twice, safetensors has no such dtype, or a tensor's data has not the size its shape says; `path` is then as it was
 */
export async function writeSafetensors(path: string, model: SafetensorsToWrite): Promise<number> {
  checkUniqueNames(path, model.tensors);
  const entries: [string, unknown][] = [];
  if (model.metadata !== undefined) entries.push(['__metadata__', model.metadata]);
  const sizes: number[] = [];
  let offset = 0;
  for (const tensor of model.tensors) {
    const dtype = safetensorsOfDtype(tensor.dtype);
    if (dtype === null || tensor.name === '__metadata__') {
      const message =
        dtype === null
          ? `safetensors has no type for ${tensor.dtype}`
          : 'this name is kept for metadata';
      throw new WeightFileError(message, { fault: 'usage', file: path, tensor: tensor.name });
    }
    const sizeBytes = sizeOfTensor(path, tensor);
    const data_offsets = [offset, offset + sizeBytes];
    entries.push([tensor.name, { dtype, shape: tensor.shape, data_offsets }]);
    sizes.push(sizeBytes);
    offset += sizeBytes;
  }
  const json = headerJson(entries);
  const header = Buffer.alloc(8 + json.length);
  header.writeBigUInt64LE(BigInt(json.length));
  json.copy(header, 8);
  return await writeFileByAppending(path, async (file) => {
    await file.append(header);
    for (const [index, tensor] of model.tensors.entries()) {
      await appendTensor(path, file, tensor, sizes[index]!);
    }
  });
}

/** Written entry by entry: as a property of an object, `__proto__` or a name like `1` would be lost or moved. */
function headerJson(entries: readonly [string, unknown][]): Buffer {
  const json = `{${entries.map(([k, v]) => `${JSON.stringify(k)}:${JSON.stringify(v)}`).join(',')}}`;
  const bytes = Buffer.from(json);
  return Buffer.concat([bytes, Buffer.alloc((8 - (bytes.length % 8)) % 8, ' ')]);
}
