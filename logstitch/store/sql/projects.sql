-- Organizations and their projects.

-- name: insert_organization
INSERT INTO organizations (organization_id, name, plan, created_at)
VALUES (%(organization_id)s, %(name)s, %(plan)s, %(created_at)s);

-- name: list_organizations
SELECT organization_id, name, plan, created_at FROM organizations ORDER BY created_at, organization_id;

-- name: set_plan
UPDATE organizations SET plan = %(plan)s WHERE organization_id = %(organization_id)s RETURNING organization_id;

-- name: insert_project
WITH project AS (
    INSERT INTO projects (project_id, organization_id, name, created_at, idempotency_secret)
    VALUES (%(project_id)s, %(organization_id)s, %(name)s, %(created_at)s, %(secret)s)
    RETURNING project_no
), head AS (
    INSERT INTO project_heads (project_no) SELECT project_no FROM project
)
SELECT project_no FROM project;

-- name: find_project
SELECT project_no, project_id, organization_id, name, created_at FROM projects
WHERE organization_id = %(organization_id)s AND project_id = %(project_id)s;

-- name: find_any_two_projects
SELECT project_no, project_id, organization_id, name, created_at FROM projects
WHERE organization_id = %(organization_id)s LIMIT 2;

-- name: list_projects
SELECT project_no, project_id, organization_id, name, created_at FROM projects
WHERE organization_id = %(organization_id)s
ORDER BY created_at DESC, project_id DESC LIMIT %(limit)s;

-- name: list_projects_after
SELECT project_no, project_id, organization_id, name, created_at FROM projects
WHERE organization_id = %(organization_id)s AND (created_at, project_id) < (%(created_at)s, %(id)s)
ORDER BY created_at DESC, project_id DESC LIMIT %(limit)s;

-- name: idempotency_secret
SELECT idempotency_secret FROM projects WHERE project_no = %(project_no)s;

-- name: insert_service_secret
INSERT INTO service_secrets (name, secret) VALUES (%(name)s, %(secret)s) ON CONFLICT DO NOTHING;

-- name: service_secret
SELECT secret FROM service_secrets WHERE name = %(name)s;
