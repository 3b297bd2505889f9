import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ChildFailedError, lastJson, runChild } from './child.ts';
import { shownCommand } from './command.ts';
import { replaceSection } from './doc-section.ts';
import { ownCpuSeconds, parseCpuLine, parseOwnTicks } from './foreign-load.ts';
import { median, summarize } from './statistics.ts';
import { markdownTable, percent, significant } from './table.ts';

describe('statistics', () => {
  it('takes the middle, or the mean of the two in the middle', () => {
    assert.equal(median([3, 1, 2]), 2);
    assert.equal(median([4, 1, 2, 3]), 2.5);
    assert.throws(() => median([]), RangeError);
  });

  it('states the spread as a share of the median and keeps the order of values', () => {
    const summary = summarize([10, 8, 12]);
    assert.deepEqual(summary, { median: 10, min: 8, max: 12, spread: 0.4, values: [10, 8, 12] });
  });
});

describe('markdownTable', () => {
  it('aligns columns of numbers to the right and others to the left', () => {
    const table = markdownTable(
      ['name', 't/s'],
      [
        ['a', '1,234'],
        ['bc', '**0.50x**'],
      ],
    );
    assert.deepEqual(table.split('\n'), [
      '| name |       t/s |',
      '| ---- | --------: |',
      '| a    |     1,234 |',
      '| bc   | **0.50x** |',
    ]);
  });

  it('shows three significant digits without exponents', () => {
    assert.deepEqual(
      [12.345, 0.0012345, 123456, Number.NaN].map((n) => significant(n)),
      ['12.3', '0.00123', '123,000', '–'],
    );
    assert.equal(percent(0.853), '85%');
  });
});

describe('replaceSection', () => {
  it('adds a section once and replaces only what is between its markers afterwards', () => {
    const first = replaceSection('# Title\n\nBy hand.\n', 'compare', 'one');
    const second = replaceSection(`${first}\nAfter.\n`, 'compare', 'two');
    assert.match(
      second,
      /^# Title\n\nBy hand\.\n\n<!-- begin compare .*-->\n\ntwo\n\n<!-- end compare -->\n\nAfter\.\n$/,
    );
  });

  it('refuses a section without an end', () => {
    const broken = replaceSection('', 'start', 'x').replace('<!-- end start -->', '');
    assert.throws(() => replaceSection(broken, 'start', 'y'), /does not end/);
  });
});

describe('runChild', () => {
  it('gives stdout and passes stdin', async () => {
    const out = await runChild(process.execPath, ['-e', 'process.stdin.pipe(process.stdout)'], {
      input: 'text\n{"a":1}\n',
    });
    assert.deepEqual(lastJson(out), { a: 1 });
  });

  it('names the command and the last lines of stderr of a child that fails', async () => {
    const failing = runChild(process.execPath, [
      '-e',
      'console.error("no such model"); process.exit(3)',
    ]);
    await assert.rejects(failing, (error) => {
      assert.ok(error instanceof ChildFailedError);
      assert.equal(error.exitCode, 3);
      assert.match(error.message, /no such model/);
      return true;
    });
  });
});

describe('shownCommand', () => {
  it('leaves out folders of this machine', () => {
    const args = ['--model', 'smollm2=/home/me/models/a.gguf', '--llama-bench', '/opt/llama-bench'];
    assert.equal(
      shownCommand('bench/start.ts', args),
      'node bench/start.ts --model smollm2=a.gguf --llama-bench llama-bench',
    );
  });
});

describe('foreign load', () => {
  it('counts everything but idle and waiting as busy, and guest time once', () => {
    const stat = 'cpu  100 1 20 500 30 4 5 6 70 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n';
    assert.deepEqual(parseCpuLine(stat), { busy: 136, total: 666 });
  });

  it('finds the times of a process whatever its name is', () => {
    const stat = '12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 100 20 3 4 20 0 1';
    assert.equal(parseOwnTicks(stat), 127);
  });

  it('knows the time of children that have ended as its own', {
    skip: process.platform !== 'linux',
  }, async () => {
    const before = ownCpuSeconds();
    await runChild(process.execPath, ['-e', 'while (process.cpuUsage().user < 400_000);']);
    const seconds = ownCpuSeconds() - before;
    assert.ok(seconds >= 0.3, `${seconds} s`);
  });
});
