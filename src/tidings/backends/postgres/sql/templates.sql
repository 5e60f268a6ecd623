-- part: summaries
SELECT template.name, template.latest, template.published, template_version.description
FROM template
JOIN template_version ON template_version.tenant = template.tenant AND template_version.name = template.name
    AND template_version.version = template.latest

-- name: next_version
-- The template's row stays locked until the version is stored, so that two authors get two numbers.
INSERT INTO template (tenant, name, latest) VALUES ($1, $2, 1)
ON CONFLICT (tenant, name) DO UPDATE SET latest = template.latest + 1
RETURNING latest;

-- name: add_version
INSERT INTO template_version (tenant, name, version, description, body, created_at) VALUES ($1, $2, $3, $4, $5, $6);

-- name: version
SELECT body FROM template_version WHERE tenant = $1 AND name = $2 AND version = $3;

-- name: published
SELECT template_version.body
FROM template
JOIN template_version ON template_version.tenant = template.tenant AND template_version.name = template.name
    AND template_version.version = template.published
WHERE template.tenant = $1 AND template.name = $2;

-- name: publish
UPDATE template SET published = $3
WHERE tenant = $1 AND name = $2
    AND EXISTS (SELECT FROM template_version WHERE tenant = $1 AND name = $2 AND version = $3)
RETURNING 1;

-- name: summary
{summaries}
WHERE template.tenant = $1 AND template.name = $2;

-- name: list
{summaries}
WHERE template.tenant = $1 AND template.name > $2
ORDER BY template.name LIMIT $3;

-- name: versions
-- Without the contents, except that a version of the previous release has its instant only in its body.
SELECT version, description,
    coalesce(created_at, (convert_from(body, 'UTF8')::json ->> 'created_at')::bigint, 0) AS created_at
FROM template_version WHERE tenant = $1 AND name = $2 AND version < $3 ORDER BY version DESC LIMIT $4;
