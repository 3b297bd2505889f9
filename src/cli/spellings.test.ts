import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Command } from 'commander';
import { UsageError } from './errors.ts';
import { inOurWords } from './spellings.ts';

const command = new Command('run')
  .argument('<model>')
  .argument('[message]')
  .option('-p, --prompt <text>')
  .option('-n, --max-tokens <n>')
  .option('-c, --max-model-len <n>')
  .option('--temperature <t>')
  .option('--load-in-4bit [type]')
  .option('--json')
  .option('--no-warmup');

/** Both as one typed them. */
function isPutAs(typed: string, ours: string): void {
  assert.deepEqual(inOurWords(typed.split(' '), command), ours.split(' '), typed);
}

test('flags of other programs become ours', () => {
  isPutAs('m --temp 0 --ctx-size=4k', 'm --temperature 0 --max-model-len=4k');
  isPutAs('m -p hi --n-predict 8', 'm -p hi --max-tokens 8');
  isPutAs('m --max_tokens 8 --no_warmup', 'm --max-tokens 8 --no-warmup');
  isPutAs('-m m -p hi -n 8', 'm -p hi -n 8');
  isPutAs('hello --model m --json', 'm hello --json');
  isPutAs('--model=./m.gguf hello', './m.gguf hello');
});

test('what is known is left alone, and so is what nobody knows', () => {
  for (const typed of [
    'm --json --temperature 0 -n8',
    'm --load-in-4bit nf4',
    'm --frob 3 -',
    '',
  ]) {
    isPutAs(typed, typed);
  }
});

test('values are no flags, and nothing is behind --', () => {
  isPutAs('m --prompt --temp -n 8', 'm --prompt --temp -n 8');
  isPutAs('m -p -ngl', 'm -p -ngl');
  isPutAs('m -- --temp -ngl -m', 'm -- --temp -ngl -m');
});

test('a flag without a counterpart says why', () => {
  for (const [flag, reason] of [
    ['-ngl', /-ngl: hasten computes on the CPU; leave it out/],
    ['--enable_prefix_caching', /always does that/],
    ['--dtype=float16', /--precision f32/],
  ] as const) {
    assert.throws(
      () => inOurWords(['m', flag, '99'], command),
      (error) => error instanceof UsageError && reason.test(error.message),
      flag,
    );
  }
});

test('a command with a flag of its own by that name keeps it', () => {
  const load = new Command('serve').option('--model <name>').option('--device <x>');
  assert.deepEqual(inOurWords(['--model', 'm', '--device', 'x'], load), [
    '--model',
    'm',
    '--device',
    'x',
  ]);
});
