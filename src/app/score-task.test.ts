import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { createRunner } from '../runtime/create-runner.ts';
import { byteTokenizer } from '../tokenizer/byte-tokenizer.ts';
import { compareOnTasks } from './evaluate.ts';
import { OpenedModel } from './open-model.ts';
import {
  choiceIds,
  flippedShare,
  type ItemScore,
  scoreItems,
  summarizeTask,
} from './score-task.ts';
import { SequenceDriver } from './sequence-driver.ts';

const TINY = fileURLToPath(new URL('../../assets/models/tiny', import.meta.url));
const bytes = byteTokenizer(320);
const ITEMS = [
  { context: 'The sky is ', choices: ['blue', 'made of cheese', 'red'], answer: 0 },
  { context: 'One, two,', choices: [' three', ' a'], answer: 1 },
];

describe('choices as tokens', () => {
  it('begin where the context ends, its last space being theirs', () => {
    const head = bytes.addsBos ? 1 : 0;
    const [blue] = choiceIds(ITEMS[0]!, bytes, 256);
    assert.equal(blue!.firstScored, head + 'The sky is'.length);
    assert.equal(bytes.decode(blue!.tokenIds.slice(blue!.firstScored)), ' blue');
  });

  it('have a token before them even without a context', () => {
    const [a] = choiceIds({ context: '', choices: ['a'], answer: 0 }, bytes, 256);
    assert.equal(a!.firstScored, 1);
    assert.equal(a!.tokenIds.length, 2);
  });

  it('keep the end of a context that is too long', () => {
    const [, two] = choiceIds(ITEMS[1]!, bytes, 6);
    assert.equal(two!.tokenIds.length, 6);
    assert.equal(
      bytes.decode(two!.tokenIds.slice(-6 + (bytes.addsBos ? 1 : 0))).slice(-5),
      'wo, a',
    );
    assert.equal(bytes.decode(two!.tokenIds.slice(two!.firstScored)), ' a');
  });
});

describe('scores', () => {
  it('are the sums of log softmax over the tokens of a choice', async () => {
    using model = new OpenedModel(TINY);
    const { config, weights: source } = model.description;
    const tokenizer = model.requireTokenizer();
    using runner = await createRunner({
      ...{ source, config, target: 'reference', precision: 'f32', threads: 1 },
      ...{ maxSeqs: 1, planCacheFolder: null },
    });
    const done: number[] = [];
    const scores = await scoreItems(runner, ITEMS, tokenizer, (n) => done.push(n));
    assert.deepEqual(done, [1, 2]);
    const driver = new SequenceDriver(runner);
    for (const [i, item] of ITEMS.entries()) {
      const sums: number[] = [];
      for (const { tokenIds, firstScored } of choiceIds(item, tokenizer, 256)) {
        let sum = 0;
        driver.reset();
        await driver.feed(tokenIds, 'all', (position, row) => {
          if (position + 1 < firstScored || position + 1 === tokenIds.length) return;
          const logits = [...runner.logits(row)];
          const norm = Math.log(logits.reduce((all, logit) => all + Math.exp(logit), 0));
          sum += logits[tokenIds[position + 1]!]! - norm;
        });
        sums.push(sum);
      }
      const { logLikelihoods, chosen } = scores[i]!;
      for (const [k, sum] of sums.entries()) {
        assert.ok(Math.abs(sum - logLikelihoods[k]!) < 1e-4, `${sum} ${logLikelihoods[k]}`);
      }
      assert.equal(chosen, sums.indexOf(Math.max(...sums)));
    }
    const lone = [{ context: 'x', choices: [' never written by it'], answer: 0 }];
    assert.equal((await scoreItems(runner, lone, tokenizer))[0]!.chosen, -1);
  });

  it('become accuracies, with the standard error of a sample', () => {
    const score = (logLikelihoods: number[], chosen: number, chosenNorm: number): ItemScore => ({
      ...{ logLikelihoods, chosen, chosenNorm },
    });
    const a = [score([-1, -4, -2], 0, 1), score([-1, -3], 0, 1)];
    const made = summarizeTask({ name: 'some', items: ITEMS }, a);
    assert.equal(made.acc, 0.5);
    assert.equal(made.accNorm, 0.5);
    assert.ok(Math.abs(made.accStderr - 0.5) < 1e-12); // sqrt(0.5 * 0.5 / 1)
    assert.ok(Math.abs(made.perplexity - Math.exp(2)) < 1e-9); // (-1 - 3) / 2
    const lone = [{ context: '', choices: [' a'], answer: 0 }];
    const alone = summarizeTask({ name: 'lone', items: lone }, [score([-1], -1, -1)]);
    assert.deepEqual([alone.acc, alone.accNorm], [0, null]);
    assert.equal(flippedShare(a, [a[0]!, score([-3, -1], 1, 1)]), 0.5);
  });

  it('of a model beside itself are equal, and of a smaller type others', async () => {
    const fixture = (name: string): string =>
      fileURLToPath(new URL(`../../test/fixtures/tiny-gguf/${name}`, import.meta.url));
    using model = new OpenedModel(fixture('llama-q4_0.gguf'));
    using reference = new OpenedModel(fixture('llama-q8_0.gguf'));
    const tasks = [{ name: 'some', items: ITEMS }];
    const options = { target: 'auto', threads: 1, precision: 'f32' } as const;
    const on = (a: OpenedModel, b: OpenedModel) =>
      compareOnTasks(a.description, b.description, tasks, bytes, options);
    const [same] = await on(reference, reference);
    assert.equal(same!.flips, 0);
    assert.deepEqual(same!.model, same!.reference);
    const [smaller] = await on(model, reference);
    assert.notEqual(smaller!.model.perplexity, smaller!.reference!.perplexity);
  });
});
