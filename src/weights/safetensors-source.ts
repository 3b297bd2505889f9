/**
 * A model in safetensors: one file, or an index (`model.safetensors.index.json`) with its shards. Knows nothing of the bytes of the
 * header (safetensors-header.ts) nor of reading tensors (tensor-reader.ts).
 */
import { dirname, join } from 'node:path';
import type { WeightSource } from './contract.ts';
import { quoted, type WeightFault, WeightFileError } from './errors.ts';
import { PositionedFile } from './positioned-file.ts';
import { readSafetensorsHeader } from './safetensors-header.ts';
import {
  describeJson,
  isJsonObject,
  JsonSyntaxError,
  type JsonValue,
  parseStrictJson,
} from './strict-json.ts';
import { type TensorPlace, TensorReader } from './tensor-reader.ts';

const MAX_INDEX_BYTES = 64 * 1024 * 1024;
/** Every file stays open; a process may have 1024. */
const MAX_SHARDS = 512;

/**
 * Opens one safetensors file.
 *
 * @param namedPath what the user named, where that is not the file itself
 * @throws {WeightFileError} if it is unsound
 */
export function openSafetensorsFile(path: string, namedPath = path): WeightSource {
  const file = new PositionedFile(path);
  try {
    return new TensorReader({
      format: 'safetensors',
      path: namedPath,
      files: [file],
      places: placesIn(file),
    });
  } catch (error) {
    file.close();
    throw error;
  }
}

/**
 * Opens the shards that an index names.
 *
 * @throws {WeightFileError} if the index is unsound or names files outside its folder, a shard is missing or unsound, or a tensor is not where the index says
 */
export function openSafetensorsIndex(indexPath: string, namedPath = indexPath): WeightSource {
  const weightMap = readWeightMap(indexPath);
  const files: PositionedFile[] = [];
  try {
    const places = openShards(indexPath, weightMap, files);
    return new TensorReader({ format: 'safetensors', path: namedPath, files, places });
  } catch (error) {
    for (const file of files) file.close();
    throw error;
  }
}

function placesIn(file: PositionedFile): TensorPlace[] {
  return readSafetensorsHeader(file).map(({ position, ...tensor }) => ({ tensor, file, position }));
}

/** @param files receives each shard as it is opened */
function openShards(
  indexPath: string,
  weightMap: ReadonlyMap<string, string>,
  files: PositionedFile[],
): TensorPlace[] {
  const shardNames = [...new Set(weightMap.values())];
  if (shardNames.length > MAX_SHARDS) {
    throw indexError(
      indexPath,
      'limit',
      `names ${shardNames.length} shards; accepted: up to ${MAX_SHARDS}`,
      { numShards: shardNames.length },
    );
  }
  const places: TensorPlace[] = [];
  const shardOf = new Map<string, string>();
  for (const shardName of shardNames) {
    const file = openShard(indexPath, shardName);
    files.push(file);
    for (const place of placesIn(file)) {
      const { name } = place.tensor;
      const other = shardOf.get(name);
      if (other !== undefined) {
        throw new WeightFileError(`is also in ${quoted(other)}`, {
          fault: 'corrupt',
          file: file.path,
          tensor: name,
          values: { otherFile: other },
        });
      }
      shardOf.set(name, shardName);
      places.push(place);
    }
  }
  for (const [name, shardName] of weightMap) {
    const found = shardOf.get(name);
    if (found === shardName) continue;
    throw new WeightFileError(
      `should be in ${quoted(shardName)}, but is ${found === undefined ? 'in no shard' : `in ${quoted(found)}`}`,
      {
        fault: 'incomplete',
        file: indexPath,
        tensor: name,
        values: { shard: shardName, found: found ?? 'none' },
      },
    );
  }
  return places;
}

function openShard(indexPath: string, shardName: string): PositionedFile {
  const path = join(dirname(indexPath), shardName);
  try {
    return new PositionedFile(path);
  } catch (cause) {
    throw new WeightFileError(
      `cannot be opened, but ${quoted(indexPath)} names it: ${cause instanceof Error ? cause.message : String(cause)}`,
      { fault: 'incomplete', file: path, values: { index: indexPath }, cause },
    );
  }
}

function readWeightMap(indexPath: string): Map<string, string> {
  const index = parseIndex(indexPath);
  const weightMap = isJsonObject(index) ? index.get('weight_map') : undefined;
  if (!isJsonObject(weightMap)) {
    throw indexError(
      indexPath,
      'corrupt',
      `"weight_map" is ${describeJson(weightMap)}; expected an object of tensor name to file name`,
    );
  }
  const shards = new Map<string, string>();
  const checked = new Set<string>();
  for (const [tensor, shard] of weightMap) {
    if (typeof shard !== 'string' || !(checked.has(shard) || isPlainShardName(shard))) {
      throw new WeightFileError(
        `is said to be in ${describeJson(shard)}; expected the name of a .safetensors file in the folder of the index`,
        { fault: 'corrupt', file: indexPath, tensor, values: { shard: describeJson(shard) } },
      );
    }
    checked.add(shard);
    shards.set(tensor, shard);
  }
  return shards;
}

/** A file in the index's own folder or below it, by name alone: the hub's cache is made of symbolic links, so those are followed. */
function isPlainShardName(name: string): boolean {
  if (!name.endsWith('.safetensors') || name.includes('\0') || name.includes('\\')) return false;
  const parts = name.split('/');
  return parts.every((part) => part !== '' && part !== '.' && part !== '..' && !part.includes(':'));
}

function parseIndex(indexPath: string): JsonValue {
  using file = new PositionedFile(indexPath);
  if (file.sizeBytes > MAX_INDEX_BYTES) {
    throw indexError(
      indexPath,
      'limit',
      `has ${file.sizeBytes} bytes; accepted for an index: up to ${MAX_INDEX_BYTES}`,
      { sizeBytes: file.sizeBytes },
    );
  }
  const bytes = new Uint8Array(file.sizeBytes);
  file.readInto(bytes, 0);
  try {
    return parseStrictJson(bytes);
  } catch (cause) {
    if (!(cause instanceof JsonSyntaxError)) throw cause;
    throw indexError(indexPath, 'corrupt', cause.message, { offset: cause.offset }, cause);
  }
}

function indexError(
  file: string,
  fault: WeightFault,
  message: string,
  values: Readonly<Record<string, number | string>> = {},
  cause?: unknown,
): WeightFileError {
  return new WeightFileError(message, { fault, file, values, cause });
}
