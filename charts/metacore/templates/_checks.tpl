{{/* What a schema cannot say in words that help. Included by the kernel's Deployment, which every rendering has. */}}
{{- define "metacore.checks" -}}
{{- if and .Values.postgresql.enabled (or .Values.database.existingSecret .Values.database.ownerSecret) -}}
{{- fail "database: postgresql.enabled brings a database along, and database.existingSecret names another; choose one" -}}
{{- end -}}
{{- if not (or .Values.postgresql.enabled .Values.database.existingSecret) -}}
{{- fail "database: set database.existingSecret to a Secret with the URLs of your PostgreSQL, or postgresql.enabled=true for one that comes along" -}}
{{- end -}}
{{- if and .Values.database.transactionPooler (not .Values.database.keys.direct) -}}
{{- fail "database: with transactionPooler the kernel needs a direct URL as well; set database.keys.direct to its key in the Secret" -}}
{{- end -}}
{{- if and (not .Values.postgresql.enabled) (eq .Values.database.keys.kernel .Values.database.keys.owner) (eq (include "metacore.kernelDatabaseSecret" .) (include "metacore.ownerDatabaseSecret" .)) -}}
{{- fail "database: database.keys.kernel and database.keys.owner are the same entry; kernels must not get the owner's URL" -}}
{{- end -}}
{{- if and .Values.trust.existingSecret (kindIs "slice" .Values.trust.keys) -}}
{{- fail "trust: trust.existingSecret is yours to fill; leave trust.keys out" -}}
{{- end -}}
{{- with .Values.kernel.autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "kernel.autoscaling: minReplicas %d is above maxReplicas %d" (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- range $component := list "kernel" "operator" -}}
{{- $own := include (printf "metacore.%sVariables" $component) $ | fromJsonArray -}}
{{- range (index $.Values $component).extraEnv -}}
{{- if has .name $own -}}
{{- fail (printf "%s.extraEnv: %s is set by the chart, or must not be set there" $component .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if hasKey .Values.kernel.podAnnotations "metacore.dev/mode" -}}
{{- fail "kernel.podAnnotations: metacore.dev/mode is the operator's; wish for a mode with `enforce`" -}}
{{- end -}}
{{- range $labels := list .Values.commonLabels .Values.kernel.podLabels .Values.operator.podLabels .Values.migrate.podLabels -}}
{{- range $name, $_ := $labels -}}
{{- if or (hasPrefix "app.kubernetes.io/" $name) (eq "helm.sh/chart" $name) -}}
{{- fail (printf "labels: %s is set by the chart" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress: name at least one host in ingress.hosts" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute: name the Gateway in httpRoute.parentRefs" -}}
{{- end -}}
{{- end -}}

{{/* Variables of the kernel that no value may set by its name: what the chart sets itself, and what a kernel must not get. */}}
{{- define "metacore.kernelVariables" -}}
{{- list "METACORE_DATABASE_URL" "METACORE_DIRECT_DATABASE_URL" "METACORE_OWNER_DATABASE_URL" "METACORE_TRANSACTION_POOLER" "METACORE_JWT_SECRETS" "METACORE_MASTER_KEY" "METACORE_ENFORCE" "METACORE_ENFORCE_FILE" "METACORE_MODE_FIXED" "METACORE_MODE_ORGANIZATIONS" "METACORE_PORT" "METACORE_TRUSTED_PROXIES" "METACORE_POD_NAME" "METACORE_CACHE_DIR" "MARKETPLACE_PUBKEYS" "MARKETPLACE_PUBKEY" "ALLOW_UNSIGNED_BUNDLES" | toJson -}}
{{- end -}}

{{- define "metacore.operatorVariables" -}}
{{- list "METACORE_POD_NAME" "METACORE_OPERATOR_NAMESPACE" "METACORE_OPERATOR_CONFIG_MAP" "METACORE_OPERATOR_TRUST_SECRET" "METACORE_OPERATOR_KERNEL_DEPLOYMENT" "METACORE_OPERATOR_LEASE" "METACORE_OPERATOR_CANARY_SECONDS" "METACORE_OPERATOR_MOST_VIOLATIONS" "METACORE_OPERATOR_VIOLATION_WINDOW" "METACORE_OPERATOR_CLUSTER_WIDE" "METACORE_OPERATOR_NAMESPACES" "METACORE_OPERATOR_TENANCY" "METACORE_OPERATOR_SOURCE_HOSTS" "METACORE_OPERATOR_ADDONS_ROOT" "METACORE_OPERATOR_PORT" "METACORE_OWNER_DATABASE_URL" "METACORE_MASTER_KEY" "METACORE_ENFORCE" "MARKETPLACE_PUBKEYS" "MARKETPLACE_PUBKEY" "ALLOW_UNSIGNED_BUNDLES" | toJson -}}
{{- end -}}
