/** What benchmarks take on their command lines. A wrong usage says what is expected, and ends the process with 2. */
import { basename } from 'node:path';

export interface NamedModel {
  readonly name: string;
  readonly path: string;
}

export function usageError(message: string): never {
  console.error(message);
  process.exit(2);
}

/** The value of `--model`. @param form what was expected */
export function modelFile(value: string | undefined, form = 'FILE'): string {
  if (value !== undefined) return value;
  return usageError(
    `--model ${form}: a GGUF file is needed (hasten pull smollm2 prints where it is)`,
  );
}

/** `NAME=FILE`; without a name the file's own. */
export function namedModel(value: string | undefined): NamedModel {
  const [, name, path] = /^(?:([^=]+)=)?(.+)$/s.exec(modelFile(value, 'NAME=FILE')) ?? [];
  if (path === undefined) return usageError(`--model ${value}: expected NAME=FILE`);
  return { name: name ?? basename(path, '.gguf'), path };
}

/** Of which there must be one at least. */
export function namedModels(values: readonly string[]): NamedModel[] {
  return values.length === 0 ? [namedModel(undefined)] : values.map(namedModel);
}

/** @param least the smallest that is accepted */
export function wholeNumber(flag: string, value: string, least: number): number {
  const number = Number(value);
  if (Number.isSafeInteger(number) && number >= least) return number;
  return usageError(`--${flag} ${value}: expected a whole number from ${least} on`);
}
