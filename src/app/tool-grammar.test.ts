/** Formats of calls, as a model that says anything is made to write them. */
import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { Engine } from '../engine/engine.ts';
import { MockRunner } from '../engine/testing/mock-runner.ts';
import { GrammarPool } from '../grammar/grammar-pool.ts';
import { parseGrammarSpec } from '../grammar/grammar-spec.ts';
import {
  byteDecoder,
  byteVocabulary,
  EOS_ID,
  VOCAB_SIZE,
} from '../grammar/testing/byte-vocabulary.ts';
import { ToolCallParser } from '../server/tool-call-parser.ts';
import { type ToolGrammarOptions, toolGrammar } from './tool-grammar.ts';
import { type ToolStyle, toolCallStart } from './tool-prompt.ts';

const TOOLS = [
  {
    name: 'weather',
    parameters: {
      type: 'object',
      properties: { city: { $ref: '#/$defs/city' } },
      required: ['city'],
      $defs: { city: { enum: ['Bonn', 'Oslo'] } },
    },
  },
  { name: 'dice "6"', parameters: { type: 'object', properties: {} } },
];

const grammars = new GrammarPool(byteVocabulary(), 4);
after(() => grammars[Symbol.dispose]());

/** Answers of a model that is fond of some characters. */
async function answers(
  style: ToolStyle,
  options: ToolGrammarOptions,
  fondness: Readonly<Record<number, number>>,
): Promise<string[]> {
  const limits = { vocabSize: VOCAB_SIZE, maxModelLen: 1000, numBlocks: 300, maxLogitRows: 4 };
  const editLogits = (logits: Float32Array): void => {
    logits.fill(-50, 128, 256);
    for (const [id, bonus] of Object.entries(fondness)) logits[Number(id)]! += bonus;
  };
  await using engine = new Engine({
    ...{ runner: new MockRunner({ limits, editLogits }), tokenizer: byteDecoder, grammars },
    eosTokenIds: [EOS_ID],
  });
  const grammar = toolGrammar(style, TOOLS, options)!;
  const texts: string[] = [];
  for (let seed = 0; seed < 8; seed++) {
    const samplingParams = { seed, maxTokens: 600 };
    const handle = engine.submit({ promptTokenIds: [65], grammar, samplingParams });
    const { text, finish } = await handle.collect();
    assert.equal(finish.reason, 'stop', String(finish.error?.message));
    texts.push(text);
  }
  return texts;
}

/** Names and arguments of the calls in an answer. */
function callsIn(text: string): string[] {
  const parser = new ToolCallParser(TOOLS);
  const pieces = [...parser.push(text), ...parser.end()];
  return pieces.flatMap((piece) =>
    piece.type === 'call' ? [`${piece.name} ${piece.arguments}`] : [],
  );
}

const CALL = /^(weather \{"city":"(Bonn|Oslo)"\}|dice "6" \{\})$/;

describe('a call that must come', () => {
  for (const style of ['hermes', 'json', 'mistral', 'glm'] as const) {
    it(`goes on from its beginning: ${style}, a named function`, async () => {
      const start = toolCallStart(style, 'weather');
      for (const text of await answers(style, { start, isParallel: false }, {})) {
        assert.match(callsIn(start + text).join(), /^weather \{"city":"(Bonn|Oslo)"\}$/);
      }
    });

    it(`goes on from its beginning: ${style}, any function`, async () => {
      const start = toolCallStart(style, null);
      const calls = (await answers(style, { start, isParallel: false }, {})).map((text) =>
        callsIn(start + text),
      );
      assert.ok(
        calls.every((each) => each.length === 1 && CALL.test(each[0]!)),
        String(calls),
      );
      assert.equal(new Set(calls.map(([call]) => call!.slice(0, 4))).size, 2);
    });
  }

  it('may be followed by others', async () => {
    const start = toolCallStart('hermes', null);
    // Fond of < and of the end, so that there are calls, text and ends.
    const texts = await answers('hermes', { start, isParallel: true }, { 60: 9, [EOS_ID]: 7 });
    const calls = texts.map((text) => callsIn(start + text));
    assert.ok(
      calls.flat().every((call) => CALL.test(call)),
      String(calls),
    );
    assert.ok(calls.some((each) => each.length >= 1));
  });
});

describe('a call that may come', () => {
  it('is nothing to ask for where nothing shows that it begins', () => {
    for (const style of ['mistral', 'glm', 'glm-keys'] as const) {
      assert.equal(toolGrammar(style, TOOLS, { start: null, isParallel: true }), null);
    }
  });

  it('is well formed wherever it begins, in text that is free', async () => {
    const texts = await answers('hermes', { start: null, isParallel: true }, { [EOS_ID]: 3 });
    assert.ok(new Set(texts).size > 1);
    const grammar = toolGrammar('hermes', TOOLS, { start: null, isParallel: true });
    const session = await grammars.open(parseGrammarSpec(grammar));
    const check = (text: string): number => {
      const ids = Int32Array.from(Buffer.from(text));
      return grammars.check(session, new Int32Array(), ids);
    };
    const good =
      'Let me see. <tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>';
    assert.equal(check(good), good.length);
    assert.equal(check(`${good} and ${good}`), 2 * good.length + 5);
    assert.equal(check(good.replace('Bonn', 'Rome')), good.indexOf('Bonn'));
    assert.equal(check(good.replace('weather', 'gallery')), good.indexOf('weather'));
    grammars.close(session);
  });
});
