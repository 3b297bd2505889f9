/** The user's own model files, and the model that is shipped with hasten. Reads names and sizes only. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { EMBEDDED_ALIAS } from './aliases.ts';
import { ModelNotFoundError } from './errors.ts';
import { fileStem, isFirstPart, isGgufModel, splitParts } from './file-choice.ts';
import { didYouMean, nearName } from './near-name.ts';
import type { ResolvedModel } from './resolved-model.ts';

/** Works from the source tree (src/hub/) and from the published package (dist/…): the first folder upwards that has it. */
export function embeddedModelDir(start: string = dirname(fileURLToPath(import.meta.url))): string {
  for (let dir = start; dir !== dirname(dir); dir = dirname(dir)) {
    const found = join(dir, 'assets', 'models', EMBEDDED_ALIAS);
    if (existsSync(join(found, 'config.json'))) return found;
  }
  throw new ModelNotFoundError(EMBEDDED_ALIAS, 'the installation lacks its assets/models folder');
}

export function embeddedModel(): ResolvedModel {
  const path = embeddedModelDir();
  return { path, name: EMBEDDED_ALIAS, source: 'embedded', sizeBytes: folderBytes(path) };
}

/**
 * A GGUF file, a folder with `config.json`, or a folder with exactly one GGUF model in it.
 *
 * @param path absolute
 * @throws {ModelNotFoundError} if it is none of these
 */
export function localModel(path: string): ResolvedModel {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) throw new ModelNotFoundError(path, missing(path));
  if (stat.isFile()) return ggufFile(path);
  if (existsSync(join(path, 'config.json'))) {
    return { path, name: basename(path), source: 'path', sizeBytes: folderBytes(path) };
  }
  const names = readdirSync(path);
  const ggufs = names.filter((name) => isGgufModel(name) && isFirstPart(name));
  if (ggufs.length === 1) return ggufFile(join(path, ggufs[0]!));
  const reason =
    ggufs.length > 1
      ? 'the folder holds several GGUF models; name one of them'
      : 'the folder has neither config.json nor a GGUF model';
  throw new ModelNotFoundError(path, reason, ggufs.length > 1 ? ggufs : names);
}

/** Says what is missing, and what stands beside it by nearly the same name. */
function missing(path: string): string {
  const folder = dirname(path);
  const isFolder = statSync(folder, { throwIfNoEntry: false })?.isDirectory() === true;
  if (!isFolder) return 'there is no such file or folder';
  const meant = nearName(basename(path), readdirSync(folder));
  return `there is no such file or folder${didYouMean(meant && join(folder, meant))}`;
}

function ggufFile(path: string): ResolvedModel {
  const parts = splitParts(path);
  const sizes = parts.map((part) => statSync(part, { throwIfNoEntry: false })?.size);
  const missing = parts[sizes.indexOf(undefined)];
  if (missing !== undefined) {
    throw new ModelNotFoundError(path, `"${missing}", a part of this split model, is missing`);
  }
  return {
    path: parts[0]!,
    name: fileStem(path),
    source: 'path',
    sizeBytes: sizes.reduce((sum: number, bytes) => sum + (bytes ?? 0), 0),
  };
}

function folderBytes(dir: string): number {
  return readdirSync(dir)
    .map((name) => statSync(join(dir, name), { throwIfNoEntry: false }))
    .reduce((sum, stat) => sum + (stat?.isFile() === true ? stat.size : 0), 0);
}
