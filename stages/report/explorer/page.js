/* The page's own script: numbers of a composition, and what Vega-Lite's controls do not reach. */

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const at = (id) => document.getElementById(id);

/* As stages/measurement/concentration.py, whose values a test compares. A weight of zero is absent. */
const present = (weights) => weights.filter((w) => w > 0).sort((a, b) => a - b);
const sum = (numbers) => numbers.reduce((total, x) => total + x, 0);

function gini(weights) {
  const ordered = present(weights);
  const n = ordered.length;
  const gaps = ordered.slice(1).map((w, i) => (w - ordered[i]) * (i + 1) * (n - i - 1));
  return sum(gaps) / (n * sum(ordered));
}

function effectiveNumber(weights) {
  const total = sum(weights);
  return Math.exp(-sum(present(weights).map((w) => (w / total) * Math.log(w / total))));
}

function lorenz(weights) {
  const ordered = present(weights);
  const total = sum(ordered);
  let held = 0;
  const points = ordered.map((w, i) => {
    held += w;
    return { share: (i + 1) / ordered.length, held: held / total };
  });
  return [{ share: 0, held: 0 }, ...points];
}

const DARK = matchMedia("(prefers-color-scheme: dark)");

async function draw(name) {
  const { spec, data, controls } = read(name);
  spec.datasets = data;
  const options = { renderer: "svg", actions: false, ast: true, logLevel: 1 };
  if (controls) options.bind = `#${name}-controls`;
  options.tooltip = { theme: DARK.matches ? "dark" : "light" };
  const { view } = await vegaEmbed(`#${name}-chart`, spec, options);
  return view;
}

function options(select, values) {
  const kept = select.value;
  select.replaceChildren(...[...new Set(values)].map((value) => new Option(value)));
  if (values.includes(kept)) select.value = kept;
}

async function composition() {
  const samples = read("samples");
  const [arm, tissue, animal] = ["arm", "tissue", "animal"].map(at);
  const view = await draw("lorenz");
  let sample;

  const sliders = () => [...at("types").querySelectorAll("input")];

  function measure() {
    const weights = sliders().map((slider) => slider.valueAsNumber);
    const total = sum(weights);
    sliders().forEach((slider, i) => {
      slider.setAttribute("aria-valuetext", `${((100 * weights[i]) / total).toFixed(1)}%`);
      slider.nextElementSibling.textContent = slider.getAttribute("aria-valuetext");
    });
    const numbers = { gini: gini(weights), effective: effectiveNumber(weights) };
    for (const [id, value] of Object.entries(numbers)) {
      at(id).value = value;
      at(id).textContent = Number.isFinite(value) ? value.toFixed(id === "gini" ? 4 : 3) : "–";
    }
    at("present").textContent = present(weights).length;
    view.data("curve", lorenz(weights)).runAsync();
  }

  function fill(counts) {
    const most = 1.5 * Math.max(...sample.counts);
    at("types").replaceChildren(
      ...sample.types.map((type, i) => {
        const row = at("slider").content.cloneNode(true);
        row.querySelector("span").textContent = type;
        Object.assign(row.querySelector("input"), { max: most, value: counts[i] });
        return row;
      }),
    );
    measure();
  }

  function pick() {
    const of = (keys) => samples.filter((one) => keys.every((key) => label(one, key) === at(key).value));
    options(arm, samples.map((one) => one.arm));
    options(tissue, of(["arm"]).map((one) => one.tissue));
    options(animal, of(["arm", "tissue"]).map((one) => label(one, "animal")));
    [sample] = of(["arm", "tissue", "animal"]);
    at("evidence").textContent = sample.evidence;
    view.data("sample", lorenz(sample.counts));
    fill(sample.counts);
  }

  function label(one, key) {
    if (key !== "animal") return one[key];
    const age = one.age_months === null ? null : `${one.age_months} months`;
    // The sample of an animal under several conditions bears the condition in its name.
    const condition = one.animal.endsWith(`(${one.condition})`) ? null : one.condition;
    return [one.animal, one.sex, age, condition].filter(Boolean).join(", ");
  }

  for (const select of [arm, tissue, animal]) select.addEventListener("change", pick);
  at("types").addEventListener("input", measure);
  at("reset").addEventListener("click", () => fill(sample.counts));
  at("even").addEventListener("click", () => fill(sample.counts.map(() => Math.max(...sample.counts))));
  pick();
  return view;
}

/* For whoever looks in from outside, a test first of all. */
const views = (window.views = {});

async function all() {
  if (at("samples")) views.lorenz = await composition();
  for (const name of ["plane", "maturing", "heads", "granularity"]) {
    if (at(name)) views[name] = await draw(name);
  }
  document.documentElement.dataset.drawn = "";
}

DARK.addEventListener("change", () => location.reload());
all();
