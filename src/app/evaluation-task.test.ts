import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import {
  BUILT_IN_TEXT,
  clozeItems,
  loadTask,
  parseTaskItems,
  TaskFileError,
} from './evaluation-task.ts';

const folder = mkdtempSync(path.join(tmpdir(), 'hasten-tasks-'));
after(() => rmSync(folder, { recursive: true }));

describe('cloze', () => {
  const filler = (words: number): string => `${'word '.repeat(words - 1)}end. `;

  it('asks for the last word of a passage that has had it before', () => {
    const items = clozeItems(
      `The Garden was\nold. ${filler(27)}${filler(27)}"He was in the garden!" She left.`,
    );
    assert.equal(items.length, 1);
    const { context, choices } = items[0]!;
    assert.deepEqual(choices, [' garden']);
    assert.ok(context.startsWith('The Garden was old. word'));
    assert.ok(context.endsWith('end. "He was in the'));
  });

  it('does not stop inside a number or a name, and drops sentences that are far away', () => {
    const items = clozeItems(
      `Nothing here. ${filler(30)}${filler(30)}In 3.5 days word came to word.`,
    );
    assert.equal(items.length, 2);
    assert.ok(items[1]!.context.startsWith('word word'));
    assert.ok(items[1]!.context.endsWith('In 3.5 days word came to'));
  });

  it('of the built-in text are many, each with its word', () => {
    const items = clozeItems(readFileSync(BUILT_IN_TEXT, 'utf8'));
    assert.ok(items.length > 100, `${items.length}`);
    for (const { context, choices } of items) {
      assert.ok(context.split(' ').length >= 59);
      assert.match(choices[0]!, /^ \p{L}{3,}$/u);
    }
  });
});

describe('tasks', () => {
  it('that are built in have four choices, of which one is right', async () => {
    for (const [name, least] of [
      ['capitals', 200],
      ['definitions', 250],
    ] as const) {
      const task = await loadTask(name, '', 1000);
      assert.equal(task.name, name);
      assert.ok(task.items.length >= least);
      const answers = new Set<number>();
      for (const { choices, answer } of task.items) {
        assert.equal(new Set(choices).size, 4);
        answers.add(answer);
      }
      assert.equal(answers.size, 4);
      assert.equal((await loadTask(name, '', 7)).items.length, 7);
    }
  });

  it('come from a file', async () => {
    const file = path.join(folder, 'sums.jsonl');
    writeFileSync(file, '{"context":"2 + 2 =","choices":[" 4"," 5"],"answer":0}\n\n');
    assert.deepEqual(await loadTask(file, '', 10), {
      name: 'sums',
      items: [{ context: '2 + 2 =', choices: [' 4', ' 5'], answer: 0 }],
    });
  });

  it('are refused with file and line', async () => {
    const cases: [string, RegExp][] = [
      ['{"context":"a"', /^x:1: is not valid JSON/],
      [
        '{"context":"a","choices":[" b"],"answer":0}\n{"context":"a"}',
        /^x:2: expected \{"context"/,
      ],
      ['{"context":"a","choices":[" b"],"answer":1}', /^x:1: expected/],
      ['{"context":"a","choices":[""],"answer":0}', /^x:1: expected/],
      ['null', /^x:1: expected/],
      ['\n', /^x: has no questions/],
    ];
    for (const [content, message] of cases) {
      assert.throws(
        () => parseTaskItems(content, 'x'),
        (error: unknown) => error instanceof TaskFileError && message.test(error.message),
        content,
      );
    }
    await assert.rejects(
      loadTask('hellaswag', '', 1),
      /expected cloze, capitals, definitions or a/,
    );
    await assert.rejects(loadTask('cloze', 'Too short.', 1), TaskFileError);
  });
});
