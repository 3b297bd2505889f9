/**
 * The folders of src/ import downwards only, and none of them what it is said to know nothing of. CONTRIBUTING.md states the order.
 * Tests and testing helpers may look anywhere.
 */
import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, it } from 'node:test';

const SRC = path.join(import.meta.dirname, '..', 'src');

/** Each folder with the folders it may import from, besides itself. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  platform: [],
  tensor: ['platform'],
  graph: ['tensor', 'platform'],
  hub: ['platform'],
  loadgen: ['platform'],
  weights: ['tensor', 'platform'],
  tokenizer: ['platform'],
  grammar: ['tokenizer', 'platform'],
  models: ['graph', 'weights', 'tensor', 'platform'],
  kernels: ['graph', 'tensor', 'platform'],
  targets: ['kernels', 'graph', 'weights', 'tensor', 'platform'],
  compiler: ['targets', 'kernels', 'graph', 'tensor', 'platform'],
  runtime: [
    ...['compiler', 'targets', 'kernels', 'graph', 'tensor', 'platform'],
    ...['models', 'weights'],
  ],
  compress: [
    ...['runtime', 'compiler', 'targets', 'kernels', 'graph', 'tensor', 'platform'],
    ...['models', 'weights'],
  ],
  engine: ['grammar', 'targets', 'platform'],
  app: [
    ...['compress', 'engine', 'runtime', 'targets', 'graph', 'tensor', 'platform'],
    ...['models', 'weights', 'tokenizer', 'hub', 'grammar'],
  ],
  server: ['app', 'engine', 'grammar', 'tokenizer', 'platform'],
  cli: [
    ...['server', 'app', 'engine', 'runtime', 'compiler', 'targets', 'graph', 'platform'],
    ...['compress', 'models', 'tokenizer', 'hub', 'loadgen', 'grammar'],
  ],
};

interface Import {
  readonly from: string;
  readonly to: string;
  readonly file: string;
}

/** Imports, types included, that lead from one folder of src/ into another. */
function importsBetweenFolders(): Import[] {
  const imports: Import[] = [];
  for (const file of globSync('*/**/*.ts', { cwd: SRC })) {
    if (file.endsWith('.test.ts') || file.includes('/testing/')) continue;
    const text = readFileSync(path.join(SRC, file), 'utf8');
    for (const [, specifier] of text.matchAll(/(?:from |import\()'(\.[^']+)'/g)) {
      const target = path.join(path.dirname(file), specifier!);
      const [from, to] = [file.split(path.sep)[0]!, target.split(path.sep)[0]!];
      if (from !== to) imports.push({ from, to, file });
    }
  }
  return imports;
}

describe('the folders of src/', () => {
  const imports = importsBetweenFolders();

  it('are all in the table', () => {
    const folders = globSync('*/', { cwd: SRC }).map((folder) => path.basename(folder));
    assert.deepEqual(folders.sort(), Object.keys(MAY_IMPORT).sort());
    assert.ok(imports.length > 100, 'the imports were not found');
  });

  it('import downwards only', () => {
    const wrong = imports
      .filter(({ from, to }) => !MAY_IMPORT[from]?.includes(to))
      .map(({ file, to }) => `${file} imports from ${to}/`);
    assert.deepEqual([...new Set(wrong)], []);
  });

  it('have an order: nothing may import what may import it', () => {
    for (const [from, targets] of Object.entries(MAY_IMPORT)) {
      for (const to of targets) {
        assert.ok(!MAY_IMPORT[to]?.includes(from), `${from} and ${to} may import each other`);
      }
    }
  });
});
