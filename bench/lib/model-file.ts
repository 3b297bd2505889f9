/** The value of `--model`. Where it is missing, says what is needed and ends the process: a wrong usage. */
export function modelFile(value: string | undefined): string {
  if (value !== undefined) return value;
  console.error('--model FILE: a GGUF file is needed (hasten pull smollm2 prints where it is)');
  process.exit(2);
}
