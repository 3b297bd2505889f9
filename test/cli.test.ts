/** The contracts of the command line that others script against, held to by running it. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { after, describe, test } from 'node:test';
import { REPOSITORY, runHasten, startHasten } from './run-hasten.ts';

/** Carried by the repository; takes text (its tokens are bytes). */
const TINY = 'tiny';
/** Without a tokenizer; its logits and greedy tokens are stored. */
const GOLDEN = 'test/fixtures/tiny/llama-sharded';

interface Golden {
  readonly input_ids: number[];
  readonly last_logits: number[];
  readonly top5_ids: number[][];
  readonly greedy_ids: number[];
}
const golden = (
  JSON.parse(readFileSync(join(REPOSITORY, GOLDEN, 'expected.json'), 'utf8')) as {
    sequences: Golden[];
  }
).sequences[1]!;

const folder = mkdtempSync(join(tmpdir(), 'hasten-cli-'));
after(() => rmSync(folder, { recursive: true }));

interface Logits {
  readonly positions: {
    readonly position: number;
    readonly top: { readonly id: number; readonly logit: number }[];
    readonly logits?: number[];
  }[];
}

interface Run {
  readonly tokenIds: number[];
  readonly text: string;
  readonly finishReason: string;
  readonly timings: Record<
    'promptTokens' | 'promptMs' | 'outputTokens' | 'outputMs' | 'ttftMs',
    number
  >;
}

interface Perplexity {
  readonly tokens: number;
  readonly nll: number;
  readonly perplexity: number;
  readonly windows: { readonly tokens: number; readonly nll: number }[];
}

interface Bench {
  readonly rows: {
    readonly test: string;
    readonly threads: number;
    readonly tokensPerSecond: number;
    readonly stddev: number;
    readonly gigabytesPerSecond: number;
  }[];
}

/** Runs a `--json` command that must succeed. */
async function json<T>(...args: string[]): Promise<T> {
  const { code, stdout, stderr } = await runHasten([...args, '--json']);
  assert.equal(code, 0, stderr);
  assert.equal(stdout.indexOf('\n'), stdout.length - 1, 'one line');
  return JSON.parse(stdout);
}

/** Runs a command that must fail: nothing on stdout, the reason on stderr. */
async function failure(code: number, reason: RegExp, ...args: string[]): Promise<void> {
  const result = await runHasten(args);
  assert.equal(result.code, code, result.stderr);
  assert.equal(result.stdout, '');
  assert.match(result.stderr, reason);
  assert.doesNotMatch(result.stderr, /\n\s+at /, 'a stack trace');
}

describe('hasten logits', () => {
  const ids = golden.input_ids.join(',');

  test('gives the largest logits of the last position', async () => {
    const { positions } = await json<Logits>(
      'logits',
      GOLDEN,
      '--token-ids',
      ids,
      '--precision',
      'f32',
      '--top',
      '5',
    );
    assert.equal(positions.length, 1);
    assert.equal(positions[0]?.position, golden.input_ids.length - 1);
    assert.deepEqual(Object.keys(positions[0]!), ['position', 'top']);
    assert.deepEqual(
      positions[0]?.top.map(({ id }) => id),
      golden.top5_ids.at(-1),
    );
  });

  test('gives all positions, and all logits as exact f32 numbers', async () => {
    const args = ['--token-ids', ids, '--positions', 'all', '--full', '--precision', 'f32'];
    const { positions } = await json<Logits>('logits', GOLDEN, ...args);
    assert.deepEqual(
      positions.map(({ position }) => position),
      golden.input_ids.map((_, position) => position),
    );
    const last = positions.at(-1)!.logits!;
    assert.equal(last.length, golden.last_logits.length);
    for (const [id, logit] of last.entries()) {
      assert.ok(Math.abs(logit - golden.last_logits[id]!) < 3e-4, `logit ${id}`);
      assert.equal(Number(Math.fround(logit).toPrecision(9)), logit, 'an f32');
    }
  });

  test('refuses ids outside the vocabulary, and what is no list of ids', async () => {
    await failure(1, /99999.*0 to 319/, 'logits', GOLDEN, '--token-ids', '99999', '--json');
    await failure(2, /separated by commas/, 'logits', GOLDEN, '--token-ids', '1,x');
    await failure(2, /--token-ids/, 'logits', GOLDEN);
  });

  test('refuses more tokens than fit, with the numbers', async () => {
    const many = new Array(300).fill(5).join(',');
    await failure(1, /300.*256/, 'logits', GOLDEN, '--token-ids', many, '--json');
    await failure(
      1,
      /7.*4/,
      'logits',
      GOLDEN,
      '--token-ids',
      ids,
      '--max-model-len',
      '4',
      '--json',
    );
  });
});

describe('hasten run', () => {
  test('takes token ids exactly and continues them greedily', async () => {
    const result = await json<Run>(
      ...['run', GOLDEN, '--token-ids', golden.input_ids.join(','), '--max-tokens', '24'],
      ...['--temperature', '0', '--ignore-eos', '--precision', 'f32'],
    );
    assert.deepEqual(result.tokenIds, golden.greedy_ids);
    assert.deepEqual(Object.keys(result), ['tokenIds', 'text', 'finishReason', 'timings']);
    assert.equal(result.finishReason, 'length');
    const { promptTokens, promptMs, outputTokens, outputMs, ttftMs } = result.timings;
    assert.equal(promptTokens, golden.input_ids.length);
    assert.equal(outputTokens, 24);
    assert.ok(promptMs > 0 && outputMs > 0 && ttftMs >= promptMs);
  });

  test('adds BOS to a prompt, and gives the text of its tokens', async () => {
    const args = ['--max-tokens', '9', '--temperature', '0'];
    const fromText = await json<Run>('run', TINY, '--prompt', 'Hello', ...args);
    assert.equal(fromText.timings.promptTokens, 6);
    // BOS is 1, byte b is 3 + b.
    const ids = [1, ...Buffer.from('Hello').map((byte) => byte)].map((id, i) =>
      i === 0 ? id : id + 3,
    );
    const fromIds = await json<Run>('run', TINY, '--token-ids', ids.join(','), ...args);
    assert.deepEqual(fromText.tokenIds, fromIds.tokenIds);
    assert.equal(fromText.text, fromIds.text);
  });

  test('draws the same text from the same seed', async () => {
    const args = [
      'run',
      TINY,
      '--chat',
      'Hi',
      '--max-tokens',
      '12',
      '--temperature',
      '1',
      '--seed',
      '7',
    ];
    assert.deepEqual((await json<Run>(...args)).tokenIds, (await json<Run>(...args)).tokenIds);
  });

  test('answers in the form that is asked for', async () => {
    const schemaFile = join(folder, 'schema.json');
    writeFileSync(schemaFile, '{"enum": ["red", "green"]}');
    const ebnfFile = join(folder, 'answer.gbnf');
    writeFileSync(ebnfFile, 'root ::= "<" [0-9] ">"');
    for (const [flags, text] of [
      [['--json-schema', schemaFile], /^"(red|green)"$/],
      [['--json-schema', '{"type": "boolean"}'], /^(true|false)$/],
      [['--grammar', ebnfFile], /^<[0-9]>$/],
      [['--regex', 'a{3}'], /^aaa$/],
    ] as const) {
      const { stdout, stderr } = await runHasten(['run', 'tiny', '--prompt', 'x', ...flags]);
      assert.match(stdout.trim(), text, stderr);
    }
    const run = ['run', 'tiny', '--prompt', 'x'];
    await failure(2, /at most one of/, ...run, '--regex', 'a', '--grammar', ebnfFile);
    await failure(1, /parenthesis is not closed/, ...run, '--regex', '(a');
    await failure(1, /cannot read/, ...run, '--json-schema', 'no-such-file');
  });

  test('prints the text alone for people', async () => {
    const args = ['run', TINY, '--prompt', 'Hello', '--max-tokens', '9', '--temperature', '0'];
    const { stdout, stderr } = await runHasten(args);
    assert.equal(stdout, `${(await json<Run>(...args)).text}\n`);
    assert.equal(stderr, '');
  });

  test('refuses what cannot fit, with the numbers', async () => {
    const long = 'x'.repeat(300);
    await failure(1, /301 prompt tokens.*256/, 'run', TINY, '--prompt', long, '--json');
    await failure(1, /2000.*256/, 'run', TINY, '--prompt', 'x', '--max-tokens', '2000', '--json');
    await failure(
      1,
      /4000.*256/,
      'run',
      TINY,
      '--prompt',
      'x',
      '--max-model-len',
      '4000',
      '--json',
    );
    await failure(
      1,
      /100 bytes/,
      'run',
      TINY,
      '--prompt',
      'x',
      '--kv-cache-memory',
      '100',
      '--json',
    );
  });

  test('refuses wrong usage with exit code 2', async () => {
    await failure(2, /nothing to answer: hasten run tiny "a message", or --prompt/, 'run', TINY);
    await failure(2, /one of a message/, 'run', TINY, '--prompt', 'a', '--chat', 'b');
    await failure(2, /number from 0 to/, 'run', TINY, '--prompt', 'a', '--temperature', 'hot');
    await failure(2, /unknown option '--frob'/, 'run', TINY, '--prompt', 'a', '--frob');
    await failure(2, /missing required argument/, 'run');
    await failure(2, /Allowed choices/, 'run', TINY, '--prompt', 'a', '--target', 'abacus');
    await failure(2, /such as 512MB/, 'run', TINY, '--prompt', 'a', '--kv-cache-memory', 'lots');
  });

  test('fails with exit code 1 where there is no model, or no tokenizer for text', async () => {
    await failure(1, /no such file/, 'run', './nothing', '--prompt', 'a', '--json');
    await failure(1, /accepted forms/, 'run', 'nothing', '--prompt', 'a', '--json');
    await failure(1, /no tokenizer/, 'run', GOLDEN, '--prompt', 'a', '--json');
    await failure(1, /not in the local cache/, 'run', 'hf:no/such', '--offline', '--prompt', 'a');
  });

  test('fails where the model is broken', async () => {
    const file = join(folder, 'broken.gguf');
    writeFileSync(file, 'GGUF and nothing more');
    await failure(1, /broken\.gguf/, 'run', file, '--token-ids', '1', '--json');
  });

  test('ends quietly when its reader goes away', async () => {
    const child = startHasten([
      'run',
      TINY,
      '--prompt',
      'a',
      '--ignore-eos',
      '--max-tokens',
      '250',
    ]);
    let stderr = '';
    child.stderr?.on('data', (data) => {
      stderr += data;
    });
    child.stdout?.once('data', () => child.stdout?.destroy());
    const [code] = await once(child, 'close');
    assert.equal(stderr, '');
    assert.equal(code, 0);
  });

  test('stops at Ctrl-C without a stack trace', async () => {
    const args = [
      'run',
      'test/fixtures/tiny/gemma3',
      '--token-ids',
      '5,6',
      '--ignore-eos',
      '--max-tokens',
      '250',
    ];
    const child = startHasten([...args, '--json']);
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (data) => {
        output += data;
      });
    }
    setTimeout(() => child.kill('SIGINT'), 250);
    const [code] = await once(child, 'close');
    // A fast machine may have been done before.
    if (code === 0) return;
    assert.equal(code, 130);
    assert.equal(output, '');
  });
});

test('SIGTERM and SIGHUP stop the work as Ctrl-C does', async () => {
  for (const [signal, expected] of [
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const) {
    const child = startHasten(['chat', TINY, '--max-tokens', '100']);
    let stdout = '';
    child.stdout?.on('data', (data) => {
      stdout += data;
      child.kill(signal);
    });
    let stderr = '';
    child.stderr?.on('data', (data) => {
      stderr += data;
    });
    child.stdin?.write('Hello\n');
    const [code] = await once(child, 'close');
    assert.equal(code, expected, stderr);
    assert.equal(stderr, '');
    assert.notEqual(stdout, '');
  }
});

test('takes what users of other programs type', async () => {
  const ours = ['run', TINY, '--chat', 'Hi', '--max-tokens', '4', '--temperature', '0'];
  const { tokenIds } = await json<Run>(...ours);
  const theirs = ['run', '-m', TINY, 'Hi', '-n', '4', '--temp', '0', '-t', '1', '-c', '128'];
  assert.deepEqual((await json<Run>(...theirs)).tokenIds, tokenIds);
  const piped = await runHasten(['run', TINY, '-', '-n', '4', '--temp', '0', '--json'], {
    stdin: 'Hi\n',
  });
  assert.deepEqual((JSON.parse(piped.stdout) as Run).tokenIds, tokenIds);
  await failure(2, /computes on the CPU/, 'run', TINY, 'Hi', '-ngl', '99');
  await failure(2, /hasten chat tiny is a conversation/, 'run', TINY);
  await failure(1, /did you mean .*README\.md\?/, 'run', './READM.md', 'Hi');
});

describe('hasten tokenize', () => {
  test('gives ids and the text decoded from them', async () => {
    const result = await json<Pick<Run, 'tokenIds' | 'text'>>(
      'tokenize',
      TINY,
      '--text',
      'hé <eos>',
    );
    assert.deepEqual(result, { tokenIds: [107, 198, 172, 35, 2], text: 'hé <eos>' });
  });

  test('reads a file, and stdin', async () => {
    const file = join(folder, 'text.txt');
    writeFileSync(file, 'a\nb');
    assert.deepEqual(
      (await json<Pick<Run, 'tokenIds' | 'text'>>('tokenize', TINY, '--text-file', file)).tokenIds,
      [100, 13, 101],
    );
    const fromStdin = await runHasten(['tokenize', TINY, '--text-file', '-', '--json'], {
      stdin: 'a',
    });
    assert.deepEqual(JSON.parse(fromStdin.stdout), { tokenIds: [100], text: 'a' });
  });

  test('wants a text, once', async () => {
    await failure(2, /either --text or --text-file/, 'tokenize', TINY);
    await failure(2, /either/, 'tokenize', TINY, '--text', 'a', '--text-file', 'b');
    await failure(
      1,
      /cannot read/,
      'tokenize',
      TINY,
      '--text-file',
      join(folder, 'none'),
      '--json',
    );
  });
});

describe('hasten embed', () => {
  interface Vector {
    readonly index: number;
    readonly numTokens: number;
    readonly embedding: readonly number[];
  }
  const vectors = async (...args: string[]): Promise<Vector[]> => {
    const { code, stdout, stderr } = await runHasten(['embed', TINY, ...args], {
      stdin: 'a cat\n\na dog\n',
    });
    assert.equal(code, 0, stderr);
    return stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
  };

  test('prints a vector of length 1 for each text, given or in lines', async () => {
    const given = await vectors('--text', 'a cat', '--text', 'a dog');
    assert.deepEqual(await vectors('--file', '-'), given);
    assert.deepEqual(
      given.map(({ index, numTokens }) => [index, numTokens]),
      [
        [0, 6],
        [1, 6],
      ],
    );
    for (const { embedding } of given) {
      assert.ok(Math.abs(Math.hypot(...embedding) - 1) < 1e-5);
    }
    const [short] = await vectors('--text', 'a cat', '--dimensions', '8');
    assert.equal(short!.embedding.length, 8);
    const [last] = await vectors('--text', 'a cat', '--pooling', 'last');
    assert.notDeepEqual(last!.embedding, given[0]!.embedding);
  });

  test('wants texts, once, and no more dimensions than there are', async () => {
    await failure(2, /either --text or --file/, 'embed', TINY);
    await failure(2, /either/, 'embed', TINY, '--text', 'a', '--file', 'b');
    await failure(
      2,
      /--dimensions 9999.* have \d+/,
      'embed',
      TINY,
      '--text',
      'a',
      '--dimensions',
      '9999',
    );
  });
});

describe('hasten perplexity', () => {
  test('scores whole windows, each from its second token on, with BOS before each', async () => {
    const file = join(folder, 'prose.txt');
    writeFileSync(file, 'To be, or not to be, that is the question. '.repeat(3)); // 129 bytes
    const result = await json<Perplexity>('perplexity', TINY, '--file', file, '--window', '33');
    assert.deepEqual(Object.keys(result), ['tokens', 'nll', 'perplexity', 'windows']);
    // 32 text tokens and BOS per window: 4 windows, 1 byte dropped.
    assert.deepEqual(
      result.windows.map(({ tokens }) => tokens),
      [32, 32, 32, 32],
    );
    assert.equal(result.tokens, 128);
    const mean = result.windows.reduce((sum, { nll }) => sum + nll, 0) / 4;
    assert.ok(Math.abs(result.nll - mean) < 1e-12);
    assert.ok(Math.abs(result.perplexity - Math.exp(result.nll)) < 1e-9);
    // Noise about as likely as any of 320 tokens.
    assert.ok(result.nll > 4 && result.nll < 9, `${result.nll}`);
  });

  test('refuses a text shorter than a window, with the numbers', async () => {
    const file = join(folder, 'short.txt');
    writeFileSync(file, 'short');
    await failure(1, /5 tokens.*511/, 'perplexity', TINY, '--file', file, '--json');
  });
});

describe('hasten bench', () => {
  test('gives a row per test and thread count', async () => {
    const { rows } = await json<Bench>(
      'bench',
      TINY,
      '-p',
      '16',
      '-n',
      '4',
      '-t',
      '1,2',
      '-r',
      '2',
    );
    assert.deepEqual(
      rows.map(({ test: name, threads }) => [name, threads]),
      [
        ['pp16', 1],
        ['tg4', 1],
        ['pp16', 2],
        ['tg4', 2],
      ],
    );
    for (const row of rows) {
      assert.ok(row.tokensPerSecond > 0 && row.stddev >= 0 && row.gigabytesPerSecond > 0);
    }
  });

  test('leaves out a test of 0 tokens', async () => {
    const { rows } = await json<Bench>('bench', TINY, '-p', '0', '-n', '2', '-r', '1');
    assert.deepEqual(
      rows.map(({ test: name }) => name),
      ['tg2'],
    );
    await failure(2, /nothing to measure/, 'bench', TINY, '-p', '0', '-n', '0');
  });
});

describe('hasten chat', () => {
  test('answers lines, knows its commands and leaves at the end of input', async () => {
    const stdin = 'Hi\n/stats\n/system Be brief.\nA line\\\nand another\n/frob\n/exit\nnot read\n';
    const { code, stdout, stderr } = await runHasten(
      ['chat', TINY, '--max-tokens', '5', '--seed', '1'],
      { stdin },
    );
    assert.equal(code, 0, stderr);
    assert.ok(stdout.length > 0);
    assert.match(stderr, /answers +1, \d tokens/);
    assert.match(stderr, /system message set/);
    assert.match(stderr, /\/frob: no such command/);
  });
});

describe('hasten show, explain, list, doctor', () => {
  test('show says what a model is made of', async () => {
    const shown = await json<{ config: { architecture: string }; parameters: number }>(
      'show',
      TINY,
    );
    assert.equal(shown.config.architecture, 'llama');
    assert.equal(shown.parameters, 357024);
  });

  test('explain prints the graph before and after the passes', async () => {
    const { stages } = await json<{ stages: { name: string }[] }>('explain', TINY);
    assert.equal(stages[0]?.name, 'model');
    assert.ok(stages.length > 5);
    const text = (await runHasten(['explain', TINY])).stdout;
    assert.match(text, /As the model describes itself/);
    assert.match(text, /After all passes/);
    await failure(2, /expected one of model/, 'explain', TINY, '--stage', 'frob');
  });

  test('list of an empty cache is an empty list', async () => {
    const env = { HF_HOME: join(folder, 'empty') };
    const { stdout } = await runHasten(['list', '--json'], { env });
    assert.deepEqual(JSON.parse(stdout).models, []);
  });

  test('doctor looks at everything it should', async () => {
    const { checks } = await json<{ checks: { name: string }[] }>('doctor');
    const names = checks.map(({ name }) => name);
    for (const name of ['platform', 'node', 'target', 'threads', 'memory', 'model cache', 'pip']) {
      assert.ok(names.includes(name), name);
    }
  });
});

describe('hasten --help', () => {
  const commands = [
    ...['run', 'chat', 'serve', 'pull', 'list', 'show', 'rm', 'bench', 'logits'],
    ...['perplexity', 'tokenize', 'embed', 'explain', 'doctor'],
  ];

  test('names every command', async () => {
    const { code, stdout } = await runHasten(['--help']);
    assert.equal(code, 0);
    for (const name of commands) assert.match(stdout, new RegExp(`^  ${name} `, 'm'));
  });

  for (const name of commands) {
    test(`of ${name} has an example`, async () => {
      const { code, stdout } = await runHasten([name, '--help']);
      assert.equal(code, 0);
      assert.match(stdout, /Examples?:\n {2}\$ hasten /);
    });
  }

  test('is shown on stderr where no command is given', async () => {
    await failure(2, /Usage: hasten/);
    await failure(2, /unknown command 'frob'/, 'frob');
  });
});

/** A Node other than ours that the launcher can be started with: the first further one in PATH. */
function olderNode(): string | undefined {
  const candidates = (process.env.PATH ?? '').split(delimiter).map((dir) => join(dir, 'node'));
  return candidates.find((path) => existsSync(path) && versionOf(path) !== process.version);
}

function versionOf(node: string): string {
  return spawnSync(node, ['--version'], { encoding: 'utf8' }).stdout?.trim() ?? '';
}

test('the launcher becomes the carried Node, passing on signals and exit codes', {
  skip: olderNode() === undefined && 'no older Node in PATH',
}, async () => {
  const node = olderNode()!;
  const launcher = join(REPOSITORY, 'bin/hasten.js');
  const help = spawn(node, [launcher, 'frob'], { stdio: 'ignore' });
  assert.deepEqual(await once(help, 'close'), [2, null]);
  const server = spawn(node, [launcher, 'serve', TINY, '--port', '0', '--log-level', 'silent']);
  await once(server.stdout, 'data');
  server.kill('SIGTERM');
  assert.deepEqual(await once(server, 'close'), [0, null]);
});

describe('where native code cannot run', { concurrency: 2 }, () => {
  // As on another processor: the platform is asked, not the hardware.
  const override = 'Object.defineProperty(process,"arch",{value:"arm64"})';
  const env = { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(override)}` };
  const commands: readonly (readonly string[])[] = [
    ['run', TINY, '--prompt', 'a', '--max-tokens', '1', '--json'],
    ['logits', TINY, '--token-ids', '1,2', '--json'],
    ['bench', TINY, '-p', '4', '-n', '2', '-r', '1', '-t', '1', '--json'],
    ['explain', TINY, '--json'],
  ];
  for (const args of commands) {
    test(`hasten ${args[0]} says so and answers all the same`, async () => {
      const { code, stdout, stderr } = await runHasten(args, { env });
      assert.equal(code, 0, stderr);
      assert.match(stderr, /the processor is arm64, native code needs x64.*reference target/);
      assert.equal(stderr.split('reference target').length, 2, 'said more than once');
      JSON.parse(stdout);
    });
  }
});
