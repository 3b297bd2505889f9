/** `hasten evaluate` as users run it: a small model beside a larger one, in JSON and as a page. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, it } from 'node:test';
import type { EvaluationReport } from '../src/app/evaluation-report.ts';
import { REPOSITORY, runHasten } from './run-hasten.ts';

const fixture = (name: string): string => path.join(REPOSITORY, 'test/fixtures/tiny-gguf', name);
const folder = mkdtempSync(path.join(tmpdir(), 'hasten-evaluate-'));
after(() => rmSync(folder, { recursive: true }));

it('measures quality, answers, speed and memory, and draws them', async () => {
  const page = path.join(folder, 'page.html');
  const { code, stdout, stderr } = await runHasten([
    ...['evaluate', fixture('llama-q4_0.gguf'), '--against', fixture('llama-q8_0.gguf')],
    ...['--protocol', 'disjoint-64', '--windows', '3', '--tasks', 'cloze,capitals'],
    ...['--items', '4', '--page', page, '--json', '--threads', '1', '--offline'],
  ]);
  assert.equal(code, 0, stderr);
  const { quality, tasks, costs } = JSON.parse(stdout) as EvaluationReport;
  assert.ok('reference' in quality);
  assert.equal(quality.windows.length, 3);
  // The mean of windows of one size is that of all tokens.
  const mean = quality.windows.reduce((sum, w) => sum + w.meanKld! / 3, 0);
  assert.ok(Math.abs(mean - quality.model.meanKld) < 1e-9);
  assert.equal(quality.kldQuantiles.at(-1), quality.model.maxKld);
  assert.deepEqual(
    tasks.map(({ model }) => [model.name, model.numItems]),
    [
      ['cloze', 4],
      ['capitals', 4],
    ],
  );
  assert.ok(costs!.model.sizeBytes < costs!.reference!.sizeBytes);
  for (const { peakBytes, residentBytes, decodeTokensPerSecond } of Object.values(costs!)) {
    assert.ok(peakBytes >= residentBytes && residentBytes > 10e6);
    assert.ok(decodeTokensPerSecond > 0);
  }
  assert.match(readFileSync(page, 'utf8'), /<polyline /);
  assert.deepEqual(readdirSync(folder), ['page.html']);
});

it('refuses a task that it does not know before any work', async () => {
  const { code, stderr } = await runHasten([
    ...['evaluate', fixture('llama-q4_0.gguf'), '--tasks', 'arc', '--offline'],
  ]);
  assert.equal(code, 1);
  assert.match(stderr, /task "arc": expected cloze, capitals, definitions or a file of JSON lines/);
});

it('refuses windows that the model was not made for, and lengths that it would not use', async () => {
  const model = fixture('llama-q4_0.gguf');
  const long = await runHasten(['evaluate', model, '--protocol', 'disjoint-4096', '--offline']);
  assert.match(long.stderr, /--protocol disjoint-4096: .* made for sequences of up to \d+ tokens/);
  assert.equal(long.code, 2);
  const unused = await runHasten(['evaluate', model, '--max-model-len', '128', '--offline']);
  assert.match(unused.stderr, /unknown option '--max-model-len'/);
  assert.equal(unused.code, 2);
});

it('prints what it measured even where the page has no place', async () => {
  const { code, stdout, stderr } = await runHasten([
    ...['evaluate', fixture('llama-q4_0.gguf'), '--protocol', 'disjoint-64', '--windows', '1'],
    ...['--no-speed', '--page', path.join(REPOSITORY, 'package.json', 'page.html'), '--offline'],
  ]);
  assert.match(stdout, /perplexity/);
  assert.notEqual(stderr, '');
  assert.equal(code, 1);
});
