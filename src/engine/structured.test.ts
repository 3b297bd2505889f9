/** Grammars as the whole engine keeps them: whatever a model would like to say, the text is one that the grammar takes. */
import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { Ajv } from 'ajv';
import { GrammarPool } from '../grammar/grammar-pool.ts';
import type { GrammarInput } from '../grammar/grammar-spec.ts';
import {
  byteDecoder,
  byteVocabulary,
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
