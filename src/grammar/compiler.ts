/**
 * Turns grammars into matchers by XGrammar (Dong et al. 2024, arXiv:2411.15100). Lives on the grammar worker's thread. An error of the library
 * aborts its WebAssembly instance, so after any `CompileError` nothing here may be used again.
 */
import type {
  CompiledGrammar,
  GrammarCompiler,
  GrammarMatcher,
  JSONSchemaFormat,
  StructuralTag,
  StructuralTagFormat,
  TagFormat,
} from '@mlc-ai/web-xgrammar';
import type { GrammarSpec, TaggedSchema, TagsGrammar } from './grammar-spec.ts';
import { enforceableSchema } from './json-schema.ts';
import { type GrammarVocabulary, spelledTokens } from './vocabulary.ts';
import { loadXGrammar, type XGrammar } from './xgrammar-module.ts';

/** Compiled grammars kept for the next request. */
const MAX_CACHED = 64;

/** The grammar cannot be compiled; the message is for its author. */
export class CompileError extends Error {}

export class MatcherFactory {
  readonly #xgrammar: XGrammar;
  readonly #compiler: GrammarCompiler;
  /** What the library said since the last compilation began. */
  readonly #lines: string[];
  /** By the text of the grammar, the least recently used first. */
  readonly #compiled = new Map<string, CompiledGrammar>();

  private constructor(xgrammar: XGrammar, compiler: GrammarCompiler, lines: string[]) {
    this.#xgrammar = xgrammar;
    this.#compiler = compiler;
    this.#lines = lines;
  }

  static async create(vocabulary: GrammarVocabulary): Promise<MatcherFactory> {
    const lines: string[] = [];
    const xgrammar = loadXGrammar((line) => lines.push(line));
    const info = await xgrammar.TokenizerInfo.createTokenizerInfo(
      spelledTokens(vocabulary),
      'byte_level',
      false,
      vocabulary.vocabSize,
      [...vocabulary.eosTokenIds],
    );
    const compiler = await xgrammar.GrammarCompiler.createGrammarCompiler(info, false);
    return new MatcherFactory(xgrammar, compiler, lines);
  }

  /** @throws {CompileError} if the grammar is not sound, or accepts nothing */
  async open(spec: GrammarSpec): Promise<GrammarMatcher> {
    const key = JSON.stringify(spec);
    let compiled = this.#compiled.get(key);
    if (compiled === undefined) compiled = await this.#compile(spec);
    else this.#compiled.delete(key);
    this.#compiled.set(key, compiled);
    if (this.#compiled.size > MAX_CACHED) {
      const [oldest, grammar] = this.#compiled.entries().next().value!;
      this.#compiled.delete(oldest);
      grammar.dispose(); // Matchers keep what they need of it.
    }
    return await this.#xgrammar.GrammarMatcher.createGrammarMatcher(compiled);
  }

  async #compile(spec: GrammarSpec): Promise<CompiledGrammar> {
    this.#lines.length = 0;
    let compiled: CompiledGrammar;
    try {
      compiled = await this.#compileSpec(spec);
      const matcher = await this.#xgrammar.GrammarMatcher.createGrammarMatcher(compiled);
      const mask = await matcher.getNextTokenBitmask();
      matcher.dispose();
      if (mask.every((word) => word === 0)) throw new CompileError('no text fulfils it');
    } catch (error) {
      if (error instanceof CompileError) throw error;
      throw new CompileError(this.#reasonOf(error), { cause: error });
    }
    // What it only warns of it does not enforce.
    const [warning] = this.#lines;
    if (warning !== undefined) throw new CompileError(cleaned(warning));
    return compiled;
  }

  #compileSpec(spec: GrammarSpec): Promise<CompiledGrammar> {
    const compiler = this.#compiler;
    const schema = (text: string, isStrict: boolean): Promise<CompiledGrammar> =>
      compiler.compileJSONSchema(text, true, -1, undefined, isStrict);
    switch (spec.type) {
      case 'json_object':
        return schema('{"type":"object"}', false);
      case 'json_schema':
        return schema(enforceableSchema(spec.schema), true);
      case 'regex':
        return compiler.compileStructuralTag({
          type: 'structural_tag',
          format: { type: 'regex', pattern: spec.regex },
        });
      case 'choice':
        return compiler.compileGrammar(`root ::= ${spec.choice.map(ebnfString).join(' | ')}`);
      case 'grammar':
        return compiler.compileGrammar(spec.grammar);
      case 'tags':
        return compiler.compileStructuralTag(tagsTag(spec));
      default:
        return spec satisfies never;
    }
  }

  #reasonOf(error: unknown): string {
    const fatal = this.#lines.find((line) => line.startsWith('[FATAL]'));
    if (fatal !== undefined) return cleaned(fatal);
    // The library has 64 KiB of stack, and what runs over it is caught.
    if (error instanceof RangeError || /out of bounds/.test(String(error))) {
      return 'it is nested too deeply';
    }
    if (/memory|OOM/i.test(String(error)) || this.#lines.some((line) => /OOM|memory/i.test(line))) {
      return 'it takes too much memory';
    }
    return `it cannot be compiled: ${String(error)}`;
  }
}

function tagsTag({ first, more, isSingle }: TagsGrammar): StructuralTag {
  const elements: StructuralTagFormat[] = [];
  if (first !== null) elements.push(oneOf(first.map(tagFormat)));
  if (more !== null) {
    elements.push({
      type: 'triggered_tags',
      triggers: [more.trigger],
      tags: more.tags.map(tagFormat),
      stop_after_first: isSingle,
    });
  }
  const [only] = elements;
  return {
    type: 'structural_tag',
    format: elements.length === 1 && only !== undefined ? only : { type: 'sequence', elements },
  };
}

function oneOf(formats: StructuralTagFormat[]): StructuralTagFormat {
  const [only] = formats;
  return formats.length === 1 && only !== undefined ? only : { type: 'or', elements: formats };
}

function tagFormat({ begin, schema, end }: TaggedSchema): TagFormat {
  const json_schema = JSON.parse(enforceableSchema(schema)) as JSONSchemaFormat['json_schema'];
  return { type: 'tag', begin, content: { type: 'json_schema', json_schema }, end };
}

/** A text in quotes, each character beyond plain ones by its number. */
function ebnfString(text: string): string {
  const inside = Array.from(text, (character) =>
    /^[A-Za-z0-9 _.,:;-]$/.test(character)
      ? character
      : `\\U${character.codePointAt(0)!.toString(16).padStart(8, '0')}`,
  );
  return `"${inside.join('')}"`;
}

/** `[FATAL] /a/path/file.cc:12: Regex parsing error` without what only the library's authors can use. */
function cleaned(line: string): string {
  return line
    .replace(/^\[\w+\] \S+?:\d+: /, '')
    .replace(/^Check failed: .*? is false: /s, '')
    .slice(0, 300);
}
