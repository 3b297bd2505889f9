/**
 * Which files of a repository make up the model that was asked for. Works on names alone, so that
 * the hub's listing and the cache's contents are judged by the same rule.
 *
 * GGUF as llama.cpp chooses (common/download.cpp): the quantization asked for, otherwise Q4_K_M, Q8_0, the first one;
 * `x-00001-of-0000N.gguf` means all N parts; projectors, importance matrices and draft heads are no models.
 */
import type { RepoSpec } from './model-spec.ts';

export type FileChoice =
  | { readonly kind: 'gguf'; readonly files: readonly string[] }
  | { readonly kind: 'safetensors'; readonly files: readonly string[] }
  /** The index names the weight files; it has to be read to know them. */
  | { readonly kind: 'sharded'; readonly files: readonly string[] }
  | { readonly kind: 'none'; readonly reason: string };

const WEIGHTS_FILE = 'model.safetensors';
export const WEIGHTS_INDEX = 'model.safetensors.index.json';

/** Files that a model folder may have beside its weights; those come last, so that a folder with weights has these too. */
const FOLDER_FILES = [
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'tokenizer.model',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.json',
  'merges.txt',
  'chat_template.json',
  'chat_template.jinja',
  'preprocessor_config.json',
  'processor_config.json',
  'outliers.safetensors',
];

const SPLIT = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/i;
const NO_MODEL = /mmproj|imatrix|mtp-|eagle3-|dflash-|dspark-/i;

/**
 * @param names all file names of the repository, sorted
 * @returns the files in the order to fetch them; for GGUF the first is the one to open
 */
export function chooseFiles(
  names: readonly string[],
  spec: Pick<RepoSpec, 'quant' | 'file'>,
): FileChoice {
  if (spec.file !== undefined) return namedFile(names, spec.file);
  const models = names.filter((name) => isGgufModel(name) && isFirstPart(name));
  if (spec.quant !== undefined) {
    const found = models.find((name) => hasQuant(name, spec.quant!));
    if (found !== undefined) return ggufParts(names, found);
    return { kind: 'none', reason: `has no GGUF file with quantization ${spec.quant}` };
  }
  const preferred = preferredGguf(names) ?? models[0];
  return preferred === undefined ? folderFiles(names) : ggufParts(names, preferred);
}

/** The GGUF that would be chosen by default whatever else the repository has. */
export function preferredGguf(names: readonly string[]): string | undefined {
  const models = names.filter((name) => isGgufModel(name) && isFirstPart(name));
  return (
    models.find((name) => hasQuant(name, 'Q4_K_M')) ?? models.find((name) => hasQuant(name, 'Q8_0'))
  );
}

/** The names of all parts of a split GGUF in order; of any other file the name itself. */
export function splitParts(name: string): string[] {
  const [, prefix, , count] = SPLIT.exec(name) ?? [];
  if (prefix === undefined || Number(count) < 1) return [name];
  return Array.from({ length: Number(count) }, (_, index) => {
    const number = String(index + 1).padStart(5, '0');
    return `${prefix}-${number}-of-${count}.gguf`;
  });
}

export function isGgufModel(name: string): boolean {
  const base = name.slice(name.lastIndexOf('/') + 1);
  return /\.gguf$/i.test(base) && !NO_MODEL.test(base);
}

/** Whether a GGUF is a single file or the first of its parts. */
export function isFirstPart(name: string): boolean {
  const number = SPLIT.exec(name)?.[2];
  return number === undefined || Number(number) === 1;
}

/** The quantization in a file name, such as `Q4_K_M`; undefined if it names none. */
export function quantOf(name: string): string | undefined {
  const stem = (SPLIT.exec(name)?.[1] ?? name.replace(/\.gguf$/i, '')).split('/').at(-1) ?? '';
  return /[-._]((?:UD-)?(?:I?Q\d[A-Z0-9_]*|BF16|F16|F32|MXFP4[A-Z0-9_]*|TQ\d[A-Z0-9_]*))$/i
    .exec(stem)?.[1]
    ?.toUpperCase();
}

/** File name without folders, `.gguf` and split numbers. */
export function fileStem(path: string): string {
  const base = path.split(/[/\\]/).at(-1) ?? path;
  return base.replace(/\.gguf$/i, '').replace(/-\d{5}-of-\d{5}$/, '');
}

/** Weight files that an index names. @throws {TypeError} if it is not an index */
export function shardsOf(index: unknown): string[] {
  const map = (index as { weight_map?: unknown } | null)?.weight_map;
  if (typeof map !== 'object' || map === null) throw new TypeError('has no "weight_map"');
  const shards = new Set<string>();
  for (const shard of Object.values(map)) {
    if (typeof shard !== 'string') throw new TypeError('"weight_map" has a value that is no name');
    shards.add(shard);
  }
  if (shards.size === 0) throw new TypeError('"weight_map" is empty');
  return [...shards].sort();
}

function namedFile(names: readonly string[], file: string): FileChoice {
  const wanted = file.toLowerCase();
  const found =
    names.find((name) => name === file) ?? names.find((name) => name.toLowerCase() === wanted);
  if (found === undefined) return { kind: 'none', reason: `has no file "${file}"` };
  if (/\.gguf$/i.test(found)) return ggufParts(names, splitParts(found)[0]!);
  return {
    kind: 'none',
    reason: `"${file}" is no GGUF file; leave it out to get the whole model folder`,
  };
}

function ggufParts(names: readonly string[], first: string): FileChoice {
  const files = splitParts(first);
  const present = new Set(names);
  const missing = files.find((file) => !present.has(file));
  if (missing === undefined) return { kind: 'gguf', files };
  return { kind: 'none', reason: `lacks "${missing}", a part of a split model` };
}

function folderFiles(names: readonly string[]): FileChoice {
  const present = new Set(names);
  if (!present.has('config.json')) {
    return { kind: 'none', reason: 'has neither a GGUF model nor config.json with safetensors' };
  }
  const small = FOLDER_FILES.filter((name) => present.has(name));
  if (present.has(WEIGHTS_FILE)) return { kind: 'safetensors', files: [...small, WEIGHTS_FILE] };
  if (present.has(WEIGHTS_INDEX)) return { kind: 'sharded', files: [...small, WEIGHTS_INDEX] };
  return {
    kind: 'none',
    reason: `has config.json, but neither ${WEIGHTS_FILE} nor ${WEIGHTS_INDEX}`,
  };
}

function hasQuant(name: string, quant: string): boolean {
  const escaped = quant.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
  return new RegExp(`(?:^|[^A-Za-z0-9])${escaped}[./-]`, 'i').test(name);
}
