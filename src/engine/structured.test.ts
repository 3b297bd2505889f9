/** Grammars as the whole engine keeps them: whatever a model would like to say, the text is one that the grammar takes. */
import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { Ajv } from 'ajv';
import { GrammarPool } from '../grammar/grammar-pool.ts';
import type { GrammarInput } from '../grammar/grammar-spec.ts';
import {
  byteDecoder,
  byteVocabulary,
  CONTROL_ID,
  EOS_ID,
  VOCAB_SIZE,
} from '../grammar/testing/byte-vocabulary.ts';
import { Engine, type EngineOptions } from './engine.ts';
import type { EngineRequest } from './request.ts';
import { MockRunner, type MockRunnerOptions } from './testing/mock-runner.ts';

const LIMITS = { vocabSize: VOCAB_SIZE, maxModelLen: 4000, numBlocks: 2000, maxLogitRows: 16 };
const prompt = [72, 101, 108, 108, 111];

const pool = new GrammarPool(byteVocabulary(), LIMITS.maxLogitRows);
after(() => pool[Symbol.dispose]());

interface Run {
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly reason: string;
  readonly error: string | undefined;
}

function engineOf(runner: MockRunnerOptions = {}, options: Partial<EngineOptions> = {}): Engine {
  return new Engine({
    runner: new MockRunner({ ...runner, limits: { ...LIMITS, ...runner.limits } }),
    tokenizer: byteDecoder,
    eosTokenIds: [EOS_ID],
    grammars: pool,
    ...options,
  });
}

async function run(engine: Engine, request: Partial<EngineRequest>): Promise<Run> {
  const handle = engine.submit({ promptTokenIds: prompt, ...request });
  const { tokenIds, text, finish } = await handle.collect();
  return { tokenIds, text, reason: finish.reason, error: finish.error?.message };
}

/** Strings end soon: a quote is as likely as all else together. */
const endsStrings = (logits: Float32Array): void => {
  logits[34]! += 6;
  // Halves of characters, which random bytes hardly ever join.
  logits.fill(-50, 128, 256);
  logits[EOS_ID]! += 3;
};

const SCHEMAS: Readonly<Record<string, object>> = {
  'nested objects': {
    type: 'object',
    properties: {
      name: { type: 'string', maxLength: 20 },
      home: {
        type: 'object',
        properties: { street: { type: 'string' }, number: { type: 'integer' } },
        required: ['street', 'number'],
        additionalProperties: false,
      },
    },
    required: ['name', 'home'],
    additionalProperties: false,
  },
  enum: { enum: ['red', 'green', 'blue "sky"', 7, null] },
  const: { const: { a: [1, 'x'] } },
  arrays: { type: 'array', items: { type: 'boolean' }, minItems: 2, maxItems: 5 },
  'numbers in ranges': {
    type: 'object',
    properties: { i: { type: 'integer', minimum: -3, maximum: 17 }, n: { type: 'number' } },
    required: ['i', 'n'],
    additionalProperties: false,
  },
  'a recursive $ref': {
    $ref: '#/$defs/node',
    $defs: {
      node: {
        type: 'object',
        properties: {
          value: { type: 'integer' },
          next: { anyOf: [{ $ref: '#/$defs/node' }, { type: 'null' }] },
        },
        required: ['value', 'next'],
        additionalProperties: false,
      },
    },
  },
  anyOf: { anyOf: [{ type: 'integer' }, { type: 'string', maxLength: 5 }, { type: 'null' }] },
  pattern: { type: 'string', pattern: '^[0-9]{3}-[a-z]+$' },
  'a pattern of anything': { type: 'string', pattern: '^.[^a]\\S.{0,5}$' },
  lengths: { type: 'string', minLength: 2, maxLength: 6 },
};

describe('a model that says anything, under a schema', () => {
  for (const [name, schema] of Object.entries(SCHEMAS)) {
    it(`answers with ${name}`, async () => {
      const isValid = new Ajv({ strict: false }).compile(schema);
      await using engine = engineOf({ editLogits: endsStrings });
      const texts = new Set<string>();
      const grammar: GrammarInput = { type: 'json_schema', schema };
      for (let seed = 0; seed < 6; seed++) {
        const samplingParams = { seed, maxTokens: 2000, temperature: seed === 0 ? 0 : 1 };
        const { text, reason, error } = await run(engine, { grammar, samplingParams });
        assert.equal(reason, 'stop', String(error));
        assert.ok(isValid(JSON.parse(text)), text);
        texts.add(text);
      }
      assert.ok(texts.size > 1 || name === 'const', 'all answers are the same');
    });
  }

  it('does not go on with white space for ever', async () => {
    const likesSpace = (logits: Float32Array): void => {
      for (const id of [9, 10, 32]) logits[id]! += 30;
    };
    await using engine = engineOf({ editLogits: likesSpace });
    const schema = { type: 'object', properties: { a: { type: 'boolean' } }, required: ['a'] };
    const grammar: GrammarInput = { type: 'json_schema', schema };
    const samplingParams = { temperature: 0, maxTokens: 1000 };
    const { text, reason } = await run(engine, { grammar, samplingParams });
    assert.equal(reason, 'stop');
    assert.equal(typeof JSON.parse(text).a, 'boolean');
    assert.match(text, /\s{64}/);
    assert.doesNotMatch(text, /\s{67}/);
  });

  it('answers with an object of any kind', async () => {
    await using engine = engineOf({ editLogits: endsStrings });
    for (let seed = 0; seed < 6; seed++) {
      const samplingParams = { seed, maxTokens: 3000, topK: 40 };
      const grammar = { type: 'json_object' } as const;
      const { text, reason } = await run(engine, { grammar, samplingParams });
      if (reason === 'stop') assert.equal(typeof JSON.parse(text), 'object');
      assert.match(text, /^\s*\{/);
    }
  });
});

describe('a model that says anything, under other grammars', () => {
  const sampled = (seed: number) => ({ seed, maxTokens: 300 });

  it('keeps to a pattern', async () => {
    await using engine = engineOf();
    for (let seed = 0; seed < 8; seed++) {
      const grammar = { type: 'regex', regex: '[a-f]+-(yes|no)é?' } as const;
      const { text, reason } = await run(engine, { grammar, samplingParams: sampled(seed) });
      assert.equal(reason, 'stop');
      assert.match(text, /^[a-f]+-(yes|no)é?$/);
    }
  });

  it('takes one of the choices, whatever characters are in them', async () => {
    await using engine = engineOf();
    const choice = ['yes', 'no', 'a "b" \\c\n', 'é🙂', ']}'];
    const texts = new Set<string>();
    for (let seed = 0; seed < 30; seed++) {
      const grammar = { type: 'choice', choice } as const;
      const { text, reason } = await run(engine, {
        grammar,
        samplingParams: { ...sampled(seed), temperature: 5 },
      });
      assert.equal(reason, 'stop');
      assert.ok(choice.includes(text), text);
      texts.add(text);
    }
    assert.equal(texts.size, choice.length);
  });

  const likesA = (logits: Float32Array): void => {
    logits[97]! += 3;
  };

  it('keeps to an EBNF that nests', async () => {
    await using engine = engineOf({ editLogits: likesA });
    const grammar = {
      type: 'grammar',
      grammar: 'root ::= sum\nsum ::= "(" sum "+" sum ")" | "a" | "b"',
    } as const;
    for (let seed = 0; seed < 8; seed++) {
      const { text, reason } = await run(engine, { grammar, samplingParams: sampled(seed) });
      assert.equal(reason, 'stop');
      assert.match(text, /^[ab(]/);
      assert.equal(text.split('(').length, text.split(')').length);
      assert.equal(text.split('(').length, text.split('+').length);
    }
  });

  it('ends where nothing may come but the end, end of text ignored or not, with one or without', async () => {
    const grammar = { type: 'regex', regex: '[ab]{3}' } as const;
    for (const eosTokenIds of [[EOS_ID], []]) {
      using own = new GrammarPool(byteVocabulary(eosTokenIds), LIMITS.maxLogitRows);
      await using engine = engineOf({}, { eosTokenIds, grammars: own });
      for (const ignoreEos of [false, true]) {
        const samplingParams = { seed: 1, maxTokens: 50, ignoreEos };
        const { text, reason } = await run(engine, { grammar, samplingParams });
        assert.match(text, /^[ab]{3}$/);
        assert.equal(reason, 'stop');
      }
    }
  });

  it('is cut at the token limit like any other', async () => {
    await using engine = engineOf();
    const grammar = { type: 'regex', regex: 'a{100}' } as const;
    const samplingParams = { maxTokens: 7, logitBias: { [EOS_ID]: 100 } };
    const { text, reason } = await run(engine, { grammar, samplingParams });
    assert.match(text, /^a+$/);
    assert.equal(reason, 'length');
  });

  it('never draws a control token, though its text would fit, nor one without text', async () => {
    const likesThem = (logits: Float32Array): void => {
      logits[CONTROL_ID] = 60;
      logits[VOCAB_SIZE - 1] = 50;
    };
    await using engine = engineOf({ editLogits: likesThem });
    const grammar = { type: 'regex', regex: '[a-z]{30}' } as const;
    const { text, tokenIds } = await run(engine, { grammar, samplingParams: sampled(3) });
    assert.match(text, /^[a-z]{30}$/);
    assert.ok(!tokenIds.includes(CONTROL_ID) && !tokenIds.includes(VOCAB_SIZE - 1));
  });

  it('draws by the probabilities of the tokens that are left', async () => {
    const logitOf = (id: number): number => ((id * 7) % 5) / 2;
    const editLogits = (logits: Float32Array): void => {
      for (let id = 0; id < logits.length; id++) logits[id] = logitOf(id);
    };
    await using engine = engineOf({ editLogits });
    const grammar = { type: 'regex', regex: '[g-l]{400}' } as const;
    const counts = new Map<string, number>();
    for (let seed = 0; seed < 5; seed++) {
      const samplingParams = { seed, maxTokens: 500 };
      const { text } = await run(engine, { grammar, samplingParams });
      assert.equal(text.length, 400);
      for (const letter of text) counts.set(letter, (counts.get(letter) ?? 0) + 1);
    }
    const letters = [...'ghijkl'];
    const weights = letters.map((letter) => Math.exp(logitOf(letter.charCodeAt(0))));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const chiSquare = letters.reduce((sum, letter, i) => {
      const expected = (2000 * weights[i]!) / total;
      return sum + ((counts.get(letter) ?? 0) - expected) ** 2 / expected;
    }, 0);
    // 5 degrees of freedom: 20.5 is passed once in a thousand times; the seeds are fixed.
    assert.ok(chiSquare < 20.5, `${JSON.stringify([...counts])} gives ${chiSquare}`);
  });
});

describe('a grammar', () => {
  /** Repeats itself, so that drafts are found, and would leave the grammar now and then. */
  const repetitive = (logits: Float32Array, context: readonly number[]): void => {
    const next = context.at(-9);
    if (next !== undefined && context.length % 23 !== 0) logits[next]! += 9;
  };
  const list: GrammarInput = {
    type: 'json_schema',
    schema: {
      type: 'array',
      items: { type: 'object', properties: { a: { enum: [1, 2] } }, required: ['a'] },
      minItems: 12,
      maxItems: 14,
    },
  };

  it('lets speculation change no text, and drafts be accepted', async () => {
    for (const temperature of [0, 1]) {
      const texts: string[] = [];
      for (const speculation of ['off', 'ngram'] as const) {
        // A clock on which every step takes as long: all that is found is drafted.
        let steps = 0;
        const runner = { editLogits: repetitive, onStep: () => void steps++ };
        await using engine = engineOf(runner, { speculation, now: () => steps });
        const samplingParams = { seed: 4, temperature, maxTokens: 2000 };
        const { text, reason } = await run(engine, { grammar: list, samplingParams });
        assert.equal(reason, 'stop');
        assert.ok(JSON.parse(text).length >= 12);
        texts.push(text);
        const { speculation: drafted } = await engine.stats();
        if (drafted !== null) assert.ok(drafted.numAcceptedTokens > 20, JSON.stringify(drafted));
      }
      assert.equal(texts[0], texts[1]);
    }
  });

  it('survives preemption, company and a start from the tokens so far', async () => {
    const requests = Array.from({ length: 6 }, (_, i) => ({
      ...(i % 2 === 0 && { grammar: list }),
      promptTokenIds: [...prompt, i],
      samplingParams: { seed: i, maxTokens: i % 2 === 0 ? 450 : 150, ignoreEos: i % 2 === 1 },
    }));
    await using roomy = engineOf({ editLogits: endsStrings });
    const alone: Run[] = [];
    for (const request of requests) alone.push(await run(roomy, request));
    assert.ok(alone.every(({ reason }, i) => reason === (i % 2 ? 'length' : 'stop')));

    await using tight = engineOf({ editLogits: endsStrings, limits: { numBlocks: 130 } });
    const crowded = await Promise.all(requests.map((request) => run(tight, request)));
    assert.ok((await tight.stats()).numPreemptions > 0, 'nobody was preempted');
    assert.deepEqual(
      crowded.map(({ tokenIds }) => tokenIds),
      alone.map(({ tokenIds }) => tokenIds),
    );

    const outputTokenIds = alone[0]!.tokenIds.slice(0, 20);
    const rest = await run(roomy, { ...requests[0], outputTokenIds });
    assert.deepEqual([...outputTokenIds, ...rest.tokenIds], alone[0]!.tokenIds);
  });

  it('that cannot be compiled ends its request, and nobody else', async () => {
    await using engine = engineOf({ editLogits: endsStrings });
    const fine = run(engine, { grammar: list, samplingParams: { seed: 1, maxTokens: 1000 } });
    const wrong: readonly [GrammarInput, RegExp][] = [
      [{ type: 'json_schema', schema: { type: 'nothing' } }, /Unsupported type "nothing"/],
      [{ type: 'json_schema', schema: { $ref: '#/$defs/none' } }, /Cannot find field/],
      [{ type: 'json_schema', schema: { $ref: '#' } }, /no text fulfils it/],
      [{ type: 'json_schema', schema: { $ref: 'http://example.com/' } }, /should either be/],
      [{ type: 'regex', regex: '(a' }, /parenthesis is not closed/],
      [{ type: 'grammar', grammar: 'root ::= other' }, /"other" is not defined/],
      [{ type: 'grammar', grammar: `root ::= ${'('.repeat(20000)}"a"` }, /deeply|parser error/],
    ];
    for (const [grammar, message] of wrong) {
      const { reason, error } = await run(engine, { grammar });
      assert.equal(reason, 'error');
      assert.match(error ?? '', message);
      await assert.rejects(engine.calls.compileGrammar(grammar), {
        code: 'invalid_grammar',
        message,
      });
    }
    assert.equal((await fine).reason, 'stop');
  });

  it('under compilation does not keep an abort or the end from coming', async () => {
    const engine = engineOf();
    const slow: GrammarInput = { type: 'regex', regex: '((a{1,1000}){1,1000}){1,1000}' };
    const controller = new AbortController();
    const first = engine.submit(
      { promptTokenIds: prompt, grammar: slow },
      { signal: controller.signal },
    );
    const second = engine.submit({ promptTokenIds: prompt, grammar: slow });
    controller.abort();
    assert.equal((await first.finished).reason, 'abort');
    await engine.close();
    assert.equal((await second.finished).reason, 'abort');
  });

  it('is refused where tokens have no text, and by its form alone', async () => {
    await using engine = engineOf({}, { grammars: undefined });
    const refused = { name: 'RequestError', param: 'grammar' };
    const request = { promptTokenIds: prompt };
    assert.throws(() => engine.submit({ ...request, grammar: { type: 'json_object' } }), refused);
    await assert.rejects(engine.calls.compileGrammar({ type: 'json_object' }), refused);
    const wrong = { type: 'json_schema', schema: '[1]' } as const;
    assert.throws(() => engine.submit({ ...request, grammar: wrong }), refused);
  });
});
