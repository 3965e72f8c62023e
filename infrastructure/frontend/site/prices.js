const form = document.querySelector("form");
const body = document.querySelector("tbody");
const said = document.querySelector("#said");

async function show() {
  const symbol = new FormData(form).get("symbol");
  const answer = await fetch(`/api/prices/${encodeURIComponent(symbol)}`);
  const found = await answer.json();
  said.textContent = answer.ok ? `${found.symbol}: the newest ${found.prices.length} days` : found.detail;
  body.replaceChildren(...(found.prices ?? []).map(({ day, close }) => {
    const row = document.createElement("tr");
    row.append(...[day, close.toFixed(2)].map((text) => Object.assign(document.createElement("td"), { textContent: text })));
    return row;
  }));
}

form.addEventListener("submit", (event) => { event.preventDefault(); show(); });
show();
