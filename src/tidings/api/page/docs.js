// Shows the OpenAPI document with Swagger UI. The commands in the document name the public URL from the settings; this
// page replaces it by the URL at which the reader has reached the page.

const documentUrl = new URL("openapi.json", location.href);
const here = new URL(".", location.href).href.replace(/\/$/, "");

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const setColors = () => document.documentElement.classList.toggle("dark-mode", prefersDark.matches);
prefersDark.addEventListener("change", setColors);
setColors();

function withThisUrl(value, publicUrl) {
  if (typeof value === "string") return value.replaceAll(`${publicUrl}/`, `${here}/`);
  if (Array.isArray(value)) return value.map((inner) => withThisUrl(inner, publicUrl));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, withThisUrl(inner, publicUrl)]));
}

async function show() {
  const response = await fetch(documentUrl);
  const published = await response.json();
  const spec = withThisUrl(published, published["x-public-url"]);
  spec.servers = [{ url: here }];
  SwaggerUIBundle({
    spec,
    domNode: document.getElementById("reference"),
    presets: [SwaggerUIBundle.presets.apis],
    layout: "BaseLayout",
    deepLinking: true,
    displayRequestDuration: true,
    persistAuthorization: true,
    tryItOutEnabled: true,
    defaultModelsExpandDepth: 0,
    validatorUrl: null,
  });
}

// Adds the accessible names that Swagger UI leaves out, and removes links inside buttons, which confuse the keyboard's
// tab order.
function improveAccessibility() {
  for (const box of document.querySelectorAll("textarea:not([aria-label])")) box.ariaLabel = "Request body";
  for (const choice of document.querySelectorAll("select:not([aria-label])")) {
    choice.ariaLabel = choice.id === "servers" ? "Server" : "Choice";
  }
  for (const link of document.querySelectorAll(".opblock-summary-control a[href]")) link.removeAttribute("href");
}

new MutationObserver(improveAccessibility).observe(document.getElementById("reference"), { childList: true, subtree: true });
show();
