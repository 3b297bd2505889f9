/** Where the files of deploy/ are, and how they are read. Knows nothing of what they mean. */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseAllDocuments } from 'yaml';

export const DEPLOY = fileURLToPath(new URL('.', import.meta.url));
export const SCHEMAS = fileURLToPath(new URL('../test/fixtures/deploy/schemas/', import.meta.url));

export interface Manifest {
  /** Below deploy/. */
  readonly file: string;
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly [field: string]: unknown;
}

/** The documents of a YAML file below deploy/. @throws {Error} naming the file and line, if it is not sound YAML */
export function readYaml(file: string): unknown[] {
  const documents = parseAllDocuments(readFileSync(join(DEPLOY, file), 'utf8'), {
    uniqueKeys: true,
  });
  return documents.map((document) => {
    const [problem] = [...document.errors, ...document.warnings];
    if (problem) throw new Error(`${file}: ${problem.message}`);
    return document.toJS() as unknown;
  });
}

/** Everything that is applied to a cluster. */
export function readManifests(): Manifest[] {
  const files = globSync('{kubernetes,knative,istio}/*.yaml', { cwd: DEPLOY }).sort();
  return files
    .filter((file) => !file.endsWith('kustomization.yaml'))
    .flatMap((file) => readYaml(file).map((value) => ({ ...(value as Manifest), file })));
}
