// Whether what the page says of the numbers of a step is true: its formulas beside the values and gradients that the
// service sends. The largest differences, relative to the largest number of an array; and how many times the numbers
// that one is computed from are not those that it is read for.
async (body) => {
  const { Step } = await import('/page/step/numbers.js');
  const { formula, readersOf } = await import('/page/step/formulas.js');
  const { post } = await import('/page/api.js');
  const step = new Step(await post('/api/step', body));
  const largest = (numbers) => numbers.reduce((most, x) => Math.max(most, Math.abs(x ?? 0)), 0);
  const worst = { values: 0, gradients: 0, crossed: 0, numbers: 0 };
  for (const operation of step.answer.operations) {
    const { values } = step.array(operation.name);
    const { value, from, to } = formula(step, operation);
    const scale = largest(values);
    values.forEach((x, out) => {
      if (x === null) return; // masked
      worst.values = Math.max(worst.values, Math.abs(value(out) - x) / scale);
      worst.crossed += from(out).filter(([input, index]) => !to(input, index).includes(out)).length;
      worst.numbers += 1;
    });
  }
  for (const name of [...Object.keys(step.answer.arrays), ...Object.keys(step.answer.weights)]) {
    if (name === 'loss') continue; // its gradient is 1, by itself
    const { gradients } = step.array(name);
    const scale = largest(gradients) || 1;
    gradients.forEach((gradient, index) => {
      if (gradient === null) return;
      const parts = readersOf(step, name, index).flatMap(({ uses }) => uses.map((use) => use.gradient * use.slope));
      worst.gradients = Math.max(worst.gradients, Math.abs(parts.reduce((a, b) => a + b, 0) - gradient) / scale);
    });
  }
  return worst;
}
