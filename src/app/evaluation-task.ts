/**
 * Questions whose answers a model is asked to find likely: multiple choice from JSON lines, and the last words of passages (cloze, as LAMBADA has them). Knows
 * nothing of how likelihoods come about.
 */
import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { HastenError } from '../platform/errors.ts';
import { packageFolder } from '../platform/package-files.ts';

/** A file of questions that cannot be used. */
export class TaskFileError extends HastenError {
  constructor(message: string, options?: ErrorOptions) {
    super('task_file', message, options);
  }
}

export interface TaskItem {
  readonly context: string;
  /** What may follow the context, with the space before it. One alone: the model is to think of it by itself. */
  readonly choices: readonly string[];
  /** Index of the right choice. */
  readonly answer: number;
}

export interface EvaluationTask {
  readonly name: string;
  readonly items: readonly TaskItem[];
}

const asset = (name: string): string =>
  fileURLToPath(new URL(`assets/evaluation/${name}`, packageFolder));

/** A text in the public domain that is no calibration text. */
export const BUILT_IN_TEXT = asset('northanger-abbey.txt');
/** Multiple choice by name. `cloze` is made of a text. */
const BUILT_IN_FILES: Readonly<Record<string, string>> = {
  capitals: asset('capitals.jsonl'),
  definitions: asset('definitions.jsonl'),
};
export const BUILT_IN_TASKS = ['cloze', ...Object.keys(BUILT_IN_FILES)];

/**
 * @param name of `BUILT_IN_TASKS`, or a file of JSON lines with `context`, `choices` and `answer`
 * @param clozeText what `cloze` is cut from
 * @param maxItems the first so many only
 * @throws {TaskFileError} if the file cannot be read, a line is no such object, or there is nothing to ask
 */
export async function loadTask(
  name: string,
  clozeText: string,
  maxItems: number,
): Promise<EvaluationTask> {
  if (name === 'cloze') {
    const items = clozeItems(clozeText);
    if (items.length === 0) {
      throw new TaskFileError(
        `cloze: the text has no passage of ${CLOZE_WORDS} words that ends in a word it has had before; give a longer one`,
      );
    }
    return { name, items: items.slice(0, maxItems) };
  }
  const file = BUILT_IN_FILES[name] ?? name;
  const content = await readFile(file, 'utf8').catch((cause: Error) => {
    throw new TaskFileError(
      `task "${name}": expected ${BUILT_IN_TASKS.join(', ')} or a file of JSON lines (${cause.message})`,
      { cause },
    );
  });
  const items = parseTaskItems(content, file);
  return { name: basename(name, '.jsonl'), items: items.slice(0, maxItems) };
}

/** @throws {TaskFileError} with file and line */
export function parseTaskItems(content: string, file: string): TaskItem[] {
  const items: TaskItem[] = [];
  for (const [index, line] of content.split('\n').entries()) {
    if (line.trim() !== '') items.push(parseItem(line, `${file}:${index + 1}`));
  }
  if (items.length === 0) throw new TaskFileError(`${file}: has no questions`);
  return items;
}

function parseItem(line: string, place: string): TaskItem {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new TaskFileError(`${place}: is not valid JSON: ${(cause as Error).message}`, { cause });
  }
  const { context, choices, answer } = (value ?? {}) as Record<string, unknown>;
  const isSound =
    typeof context === 'string' &&
    Array.isArray(choices) &&
    choices.every((choice) => typeof choice === 'string' && choice !== '') &&
    Number.isInteger(answer) &&
    choices[answer as number] !== undefined;
  if (!isSound) {
    throw new TaskFileError(
      `${place}: expected {"context": "...", "choices": ["...", ...], "answer": index}, saw ${line.slice(0, 100)}`,
    );
  }
  return { context, choices, answer: answer as number };
}

/** Words of a passage, at least. */
const CLOZE_WORDS = 60;
const SENTENCE = /\S(?:[^.!?]|[.!?]+(?=[^\s"'”’)]))*[.!?]+["'”’)]*/g;

/**
 * Last words of sentences, to be guessed from the sentence and those before it, 60 words or more. As in LAMBADA, what ends the sentence is not asked for; and
 * the word (three letters or more) stands somewhere in the passage already, so that it can be known.
 */
export function clozeItems(text: string): TaskItem[] {
  const sentences = [...text.matchAll(SENTENCE)].map(([each]) => each.trim().replace(/\s+/g, ' '));
  const items: TaskItem[] = [];
  let numWords = 0;
  let first = 0;
  const wordsOf = (index: number): number => sentences[index]!.split(' ').length;
  for (let i = 0; i < sentences.length; i++) {
    numWords += wordsOf(i);
    while (numWords - wordsOf(first) >= CLOZE_WORDS) numWords -= wordsOf(first++);
    if (numWords < CLOZE_WORDS) continue;
    const passage = sentences.slice(first, i + 1).join(' ');
    const [, context, word] = /^(.*\S) (\p{L}{3,})[.!?]+["'”’)]*$/su.exec(passage) ?? [];
    if (context === undefined || word === undefined) continue;
    if (!new RegExp(`(?<!\\p{L})${word}(?!\\p{L})`, 'iu').test(context)) continue;
    items.push({ context, choices: [` ${word}`], answer: 0 });
  }
  return items;
}
