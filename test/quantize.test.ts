/** `hasten quantize` with calibration, run as users do: what it refuses, and that nothing half made is ever left where a model should be. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { REPOSITORY, runHasten, startHasten, TEST_ENVIRONMENT } from './run-hasten.ts';

const MODEL = path.join(REPOSITORY, 'assets', 'models', 'tiny');
const folder = mkdtempSync(path.join(tmpdir(), 'hasten-quantize-'));
after(() => rmSync(folder, { recursive: true }));
/** Windows fit into the model's 256 positions. */
const SETTINGS = ['--group-size', '32', '--window', '128', '--threads', '1', '--offline'];

const command = (output: string, ...more: string[]): string[] => [
  ...['quantize', MODEL, '--to', 'gptq', '-o', output, ...SETTINGS, ...more],
];

describe('hasten quantize with calibration', () => {
  it('refuses what cannot end well at once, and leaves nothing', async () => {
    const text = path.join(folder, 'short.txt');
    writeFileSync(text, 'Too short a text.');
    const cases: [string[], RegExp][] = [
      [['--group-size', '20'], /"model\.layers\.0\.self_attn\.q_proj\.weight": groups of 20 /],
      [
        ['--to', 'awq', '--bits', '3'],
        /"model\.layers\.0\.self_attn\.q_proj\.weight": packed: AWQ's lay/,
      ],
      [['--calibration', text], /the calibration text has 17 tokens; 32768 are wanted/],
      [['--bits', '9'], /9 bits: expected 2 to 8/],
      [['--iterations', '5'], /--iterations .* for --method autoround/],
      [['--window', '512'], /--window 512: .* sequences of up to 256 tokens/],
      [['--imatrix', 'auto'], /--imatrix would do nothing here/],
    ];
    for (const [more, message] of cases) {
      const output = path.join(folder, 'refused');
      const { code, stderr } = await runHasten(command(output, ...more));
      assert.match(stderr, message);
      assert.notEqual(code, 0);
    }
    const { code, stderr } = await runHasten([
      ...['quantize', path.join(REPOSITORY, 'test/fixtures/tiny-gguf/smollm-f32.gguf')],
      ...['--to', 'gptq', '-o', path.join(folder, 'refused')],
    ]);
    assert.match(stderr, /is a GGUF file/);
    assert.equal(code, 2);
    assert.deepEqual(
      readdirSync(folder).filter((name) => name !== 'short.txt'),
      [],
    );
  });

  it('goes on after it was killed, and ends with the same model', async () => {
    const whole = path.join(folder, 'whole');
    const killed = path.join(folder, 'killed');
    const tokens = ['--tokens', '8k'];
    const child = startHasten(command(killed, ...tokens));
    const isKept = (): boolean => existsSync(path.join(`${killed}.state`, 'layer-0.json'));
    while (!isKept() && child.exitCode === null) await sleep(2);
    child.kill('SIGKILL');
    await once(child, 'close');
    assert.ok(isKept());
    assert.ok(!existsSync(killed), 'it was over before it could be killed');
    const resumed = await runHasten(command(killed, ...tokens, '--json'));
    assert.equal(resumed.code, 0, resumed.stderr);
    const { layers } = JSON.parse(resumed.stdout) as { layers: { wasKept: boolean }[] };
    assert.equal(layers[0]!.wasKept, true);
    assert.equal(layers.at(-1)!.wasKept, false);
    const straight = await runHasten(command(whole, ...tokens));
    assert.equal(straight.code, 0, straight.stderr);
    const weights = (of: string): Buffer => readFileSync(path.join(of, 'model.safetensors'));
    assert.ok(weights(killed).equals(weights(whole)));
    assert.deepEqual(
      readdirSync(folder).filter((name) => /killed|whole/.test(name)),
      ['killed', 'whole'],
    );
  });

  it('says after Ctrl-C that it can go on', async () => {
    const output = path.join(folder, 'stopped');
    const child = startHasten(command(output, '--tokens', '16k'));
    let stderr = '';
    child.stderr!.on('data', (part: Buffer) => {
      stderr += part;
    });
    const isKept = (): boolean => existsSync(path.join(`${output}.state`, 'layer-0.json'));
    while (!isKept() && child.exitCode === null) await sleep(2);
    child.kill('SIGINT');
    const [code] = (await once(child, 'close')) as [number | null];
    assert.equal(code, 130, stderr);
    assert.match(stderr, /interrupted: .* the same command goes on after it/);
    rmSync(`${output}.state`, { recursive: true });
  });

  it('says that the disk is full, and goes on once it is not', async () => {
    const output = path.join(folder, 'full');
    const more = ['--tokens', '1k'];
    const { code, stderr } = await runWithSmallFiles(command(output, ...more));
    assert.match(stderr, /no space left for .*full/);
    assert.equal(code, 1);
    assert.ok(!existsSync(output));
    const again = await runHasten(command(output, ...more));
    assert.equal(again.code, 0, again.stderr);
    assert.ok(existsSync(path.join(output, 'model.safetensors')));
    assert.deepEqual(
      readdirSync(folder).filter((name) => name.startsWith('full')),
      ['full'],
    );
  });
});

describe('hasten quantize without calibration', () => {
  const gguf = path.join(REPOSITORY, 'test/fixtures/tiny-gguf/smollm-f32.gguf');

  for (const [type, model, name] of [
    ['q8_0', gguf, 'cramped.gguf'],
    ['nf4', MODEL, 'cramped-nf4'],
    ['w8a8', MODEL, 'cramped-w8a8'],
  ] as const) {
    it(`leaves nothing of ${type} on a full disk`, async () => {
      const output = path.join(folder, name);
      const args = ['quantize', model, '--to', type, '-o', output, '--offline'];
      const { code, stderr } = await runWithSmallFiles(args);
      assert.match(stderr, /no space left for .*cramped/);
      assert.equal(code, 1);
      assert.deepEqual(
        readdirSync(folder).filter((each) => each.includes('cramped')),
        [],
      );
    });
  }

  it('rounds to nearest without a text, so that a model without a tokenizer will do', async () => {
    const model = path.join(REPOSITORY, 'test/fixtures/tiny/llama-bf16');
    const output = path.join(folder, 'nearest');
    const { code, stderr } = await runHasten([
      ...['quantize', model, '--to', 'gptq', '--method', 'rtn', '--group-size', '32'],
      ...['-o', output, '--offline'],
    ]);
    assert.equal(code, 0, stderr);
    const config = JSON.parse(readFileSync(path.join(output, 'config.json'), 'utf8'));
    assert.equal(config.quantization_config.quant_method, 'gptq');
  });

  it('smooths by the strength that is asked for', async () => {
    const smoothed = async (strength: string): Promise<Buffer> => {
      const output = path.join(folder, `smoothed-${strength}`);
      const { code, stderr } = await runHasten([
        ...['quantize', MODEL, '--to', 'w8a8', '--method', 'smoothquant', '--offline'],
        ...(strength === '' ? [] : ['--smoothing-strength', strength]),
        ...['--tokens', '256', '--window', '128', '-o', output],
      ]);
      assert.equal(code, 0, stderr);
      return readFileSync(path.join(output, 'model.safetensors'));
    };
    const half = await smoothed('');
    assert.ok(half.equals(await smoothed('0.5')));
    assert.ok(!half.equals(await smoothed('0.8')));
    const { code, stderr } = await runHasten([
      ...['quantize', MODEL, '--to', 'w8a8', '--method', 'smoothquant'],
      ...['--smoothing-strength', '2', '-o', path.join(folder, 'never')],
    ]);
    assert.match(stderr, /Expected a number from 0 to 1/);
    assert.equal(code, 2);
  });

  it('removes what a killed run left of a folder', async () => {
    const left = path.join(folder, '.tidied.999999999-0123456789abcdef.tmp');
    mkdirSync(left);
    writeFileSync(path.join(left, 'model.safetensors'), 'half');
    const output = path.join(folder, 'tidied');
    const { code, stderr } = await runHasten(['quantize', MODEL, '--to', 'nf4', '-o', output]);
    assert.equal(code, 0, stderr);
    assert.ok(!existsSync(left));
    assert.ok(existsSync(path.join(output, 'config.json')));
  });
});

describe('hasten quantize --method llm-int8', () => {
  const text = ['--tokens', '256', '--window', '128', '--threads', '1', '--offline'];
  const quantize = (output: string, ...more: string[]) =>
    runHasten(['quantize', MODEL, '-o', path.join(folder, output), ...text, ...more]);

  it('keeps outlier columns apart', async () => {
    const threshold = ['--outlier-threshold', '1', '--outlier-share', '0.1'];
    const split = await quantize('split', '--to', 'int8', '--method', 'llm-int8', ...threshold);
    assert.equal(split.code, 0, split.stderr);
    assert.ok(existsSync(path.join(folder, 'split', 'outliers.safetensors')));
  });

  it('refuses a method that the layout has no place for', async () => {
    const { code, stderr } = await quantize('never', '--to', 'w8a8', '--method', 'llm-int8');
    assert.equal(code, 2);
    assert.match(stderr, /--method llm-int8 is not for --to w8a8; accepted: rtn, smoothquant/);
  });
});

/**
 * A file may have no more than 160 blocks of 512 bytes, enough for the code that is compiled and too few for weights: as a full disk, but
 * without a file system of its own.
 */
async function runWithSmallFiles(
  args: readonly string[],
): Promise<{ code: number | null; stderr: string }> {
  const launcher = path.join(REPOSITORY, 'bin', 'hasten.js');
  const child = spawn(
    'sh',
    ['-c', 'ulimit -f 160; exec "$0" "$@"', process.execPath, launcher, ...args],
    { env: { ...process.env, ...TEST_ENVIRONMENT }, stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let stderr = '';
  child.stderr.on('data', (part: Buffer) => {
    stderr += part;
  });
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, stderr };
}
