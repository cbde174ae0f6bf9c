// The AI SDK with its provider for compatible services: node ai_sdk.mjs http://127.0.0.1:PORT
import assert from 'node:assert/strict';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateObject, generateText, jsonSchema, streamText } from 'ai';

const provider = createOpenAICompatible({
  name: 'microgpt',
  baseURL: process.argv[2] + '/v1',
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const asked = { model: provider('served'), system: 'be nice', prompt: 'how are you', seed: 1 };

const whole = await generateText(asked);
assert.equal(whole.finishReason, 'stop');
assert.ok(whole.text && whole.usage.outputTokens > 0);

const stream = streamText(asked);
let text = '';
for await (const piece of stream.textStream) text += piece;
assert.equal(text, whole.text);
assert.deepEqual((await stream.usage).totalTokens, whole.usage.totalTokens);

const continued = await generateText({ model: provider.completionModel('served'), prompt: 'hi', maxOutputTokens: 3 });
assert.ok(continued.usage.outputTokens <= 3);

const properties = { name: { type: 'string' }, age: { type: 'integer' } };
const schema = jsonSchema({ type: 'object', properties, required: ['name', 'age'], additionalProperties: false });
const { object } = await generateObject({ model: provider('served'), prompt: 'hi', schema });
assert.equal(typeof object.name, 'string');
assert.ok(Number.isInteger(object.age));

await assert.rejects(generateText({ model: provider('unknown'), prompt: 'hi', maxRetries: 0 }), /does not exist/);

console.log('generateText, streamText, a completion, generateObject, an error');
