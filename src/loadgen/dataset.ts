/**
 * Reads a dataset file: ShareGPT's JSON (`[{conversations: [{from, value}]}]`), or JSON lines of `{prompt, output_tokens?}`,
 * `{messages: [...]}` or a ShareGPT conversation each. Knows nothing of how it is used.
 */
import { readFile } from 'node:fs/promises';
import { LoadError } from './errors.ts';
import type { DatasetItem } from './workload.ts';

/** @throws {LoadError} naming the file and what is wrong with it */
export async function readDataset(path: string): Promise<DatasetItem[]> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw new LoadError(`cannot read the dataset "${path}": ${(error as Error).message}`, {
      cause: error,
    });
  }
  return parseDataset(text, path);
}

/**
 * @param name of the file, for errors
 * @throws {LoadError} if it is no JSON, or an entry has no form that is known
 */
export function parseDataset(text: string, name: string): DatasetItem[] {
  const entries = parseEntries(text, name);
  const items = entries.map((entry, index) => itemOf(entry, `${name}: entry ${index + 1}`));
  return items.filter((item) => item.turns.length > 0);
}

function parseEntries(text: string, name: string): unknown[] {
  if (text.trimStart().startsWith('[')) {
    const list = parseJson(text, name);
    if (Array.isArray(list)) return list;
  }
  return text.split('\n').flatMap((line, index) => {
    return line.trim() === '' ? [] : [parseJson(line, `${name}: line ${index + 1}`)];
  });
}

function parseJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new LoadError(`${where} is not JSON: ${(error as Error).message}`, { cause: error });
  }
}

function itemOf(entry: unknown, where: string): DatasetItem {
  const fields = (entry ?? {}) as Record<string, unknown>;
  if (typeof fields.prompt === 'string') {
    const tokens = fields.output_tokens ?? fields.output_len ?? null;
    const outputTokens = Number.isSafeInteger(tokens) && Number(tokens) > 0 ? Number(tokens) : null;
    return { turns: [{ text: fields.prompt, outputTokens }] };
  }
  const list = fields.conversations ?? fields.conversation ?? fields.messages;
  if (!Array.isArray(list)) {
    throw new LoadError(
      `${where}: expected "prompt" (a string), "messages" or "conversations" (a list), got ${Object.keys(fields).join(', ') || typeof entry}`,
    );
  }
  const turns: { text: string; outputTokens: number | null }[] = [];
  for (const message of list as Record<string, unknown>[]) {
    const role = message.from ?? message.role;
    const text = message.value ?? message.content;
    if (typeof text !== 'string') continue;
    const last = turns.at(-1);
    if (role === 'human' || role === 'user') turns.push({ text, outputTokens: null });
    else if (last) last.outputTokens ??= approximateTokens(text);
  }
  return { turns: turns.filter(({ text }) => text !== '') };
}

/** English has about four characters a token; only the length of an answer is taken from this. */
function approximateTokens(text: string): number {
  return Math.max(1, Math.min(2048, Math.round(text.length / 4)));
}
