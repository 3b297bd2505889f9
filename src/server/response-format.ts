/**
 * What a body says of the form of the answer: OpenAI's `response_format`, and vLLM's `structured_outputs` and `guided_*`. Knows field names and
 * shapes; what a schema or a pattern means is the engine's business.
 */
import * as z from 'zod';
import type { TextModel } from '../app/text-model.ts';
import { EngineClosedError } from '../engine/errors.ts';
import { GRAMMAR_FAULT } from '../grammar/errors.ts';
import { type GrammarInput, type GrammarSpec, parseGrammarSpec } from '../grammar/grammar-spec.ts';
import { HastenError } from '../platform/errors.ts';
import { ApiError, badRequest } from './errors.ts';

const schemaValue = z.union(
  [z.string(), z.boolean(), z.record(z.string(), z.unknown())],
  'expected a JSON schema',
);

const choices = z.array(z.string()).min(1);

export const responseFormatSchema = z.discriminatedUnion('type', [
  z.looseObject({ type: z.literal('text') }),
  z.looseObject({ type: z.literal('json_object') }),
  z.looseObject({
    type: z.literal('json_schema'),
    json_schema: z.looseObject({ name: z.string().optional(), schema: schemaValue }),
  }),
]);

/** Fields of a body, for every endpoint that takes them. */
export const grammarFields = {
  response_format: responseFormatSchema.optional(),
  structured_outputs: z
    .looseObject({
      json: schemaValue.nullish(),
      regex: z.string().nullish(),
      choice: choices.nullish(),
      grammar: z.string().nullish(),
      json_object: z.boolean().nullish(),
    })
    .optional(),
  guided_json: schemaValue.optional(),
  guided_regex: z.string().optional(),
  guided_choice: choices.optional(),
  guided_grammar: z.string().optional(),
};

export type GrammarFields = z.infer<z.ZodObject<typeof grammarFields>>;

/** A grammar, and the field that it came from. */
export interface AskedGrammar {
  readonly param: string;
  readonly grammar: GrammarSpec;
}

/**
 * The one grammar that a body asks for; null for none.
 * @throws {ApiError} 400 if it is not well formed, or there are several
 */
export function grammarOf(body: GrammarFields): AskedGrammar | null {
  const { response_format: format, structured_outputs: outputs } = body;
  const asked: { param: string; grammar: unknown }[] = [];
  const ask = (param: string, type: string, field: string, value: unknown): void => {
    if (value !== undefined && value !== null && value !== false) {
      asked.push({ param, grammar: { type, [field]: value } });
    }
  };
  if (format?.type === 'json_object') ask('response_format', 'json_object', 'is', true);
  if (format?.type === 'json_schema') {
    ask('response_format', 'json_schema', 'schema', format.json_schema.schema);
  }
  ask('structured_outputs', 'json_schema', 'schema', outputs?.json);
  ask('structured_outputs', 'json_object', 'is', outputs?.json_object);
  ask('structured_outputs', 'regex', 'regex', outputs?.regex);
  ask('structured_outputs', 'choice', 'choice', outputs?.choice);
  ask('structured_outputs', 'grammar', 'grammar', outputs?.grammar);
  ask('guided_json', 'json_schema', 'schema', body.guided_json);
  ask('guided_regex', 'regex', 'regex', body.guided_regex);
  ask('guided_choice', 'choice', 'choice', body.guided_choice);
  ask('guided_grammar', 'grammar', 'grammar', body.guided_grammar);
  const [first, second] = asked;
  if (first === undefined) return null;
  const { param } = first;
  if (second !== undefined) {
    throw badRequest(
      second.param,
      `${second.param}: the answer cannot have two forms, the other one being that of ${param}`,
    );
  }
  return askedGrammar(param, first.grammar);
}

/** @throws {ApiError} 400 naming the field if it is not well formed */
export function askedGrammar(param: string, grammar: unknown): AskedGrammar {
  try {
    return { param, grammar: parseGrammarSpec(grammar) };
  } catch (error) {
    throw namedError(param, error);
  }
}

/**
 * Compiles what was asked for, so that what is wrong with it is known before an answer begins.
 * @throws {ApiError} 400 naming the field
 */
export async function compiledGrammar(
  asked: AskedGrammar | null,
  model: Pick<TextModel, 'calls'>,
): Promise<GrammarSpec | undefined> {
  if (asked === null) return undefined;
  await compileOrRefuse(asked.param, asked.grammar, model);
  return asked.grammar;
}

/** @throws {ApiError} 400 naming the field */
export async function compileOrRefuse(
  param: string,
  grammar: GrammarInput,
  model: Pick<TextModel, 'calls'>,
): Promise<void> {
  try {
    await model.calls.compileGrammar(grammar);
  } catch (error) {
    // Between two engines the request waits for the next one, and finds out there.
    if (error instanceof EngineClosedError) return;
    throw namedError(param, error);
  }
}

export function isGrammarFault(error: unknown): boolean {
  return error instanceof ApiError && error.apiCode === GRAMMAR_FAULT;
}

function namedError(param: string, error: unknown): unknown {
  if (!(error instanceof HastenError && error.code === GRAMMAR_FAULT)) return error;
  return badRequest(param, `${param}: ${error.message}`, error.code);
}
