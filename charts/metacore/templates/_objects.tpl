{{/* A ServiceAccount whose token goes nowhere by itself; the operator's pods ask for theirs. Given
     (list root component annotations). */}}
{{- define "metacore.serviceAccount" -}}
{{- $root := index . 0 -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "metacore.fullname" $root }}-{{ index . 1 }}
  labels:
    {{- include "metacore.labels" (list $root (index . 1)) | nindent 4 }}
  {{- with index . 2 }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end -}}

{{/* Evictions take this many pods at a time; a pod that is not ready never blocks a drain. Given
     (list root component maxUnavailable). */}}
{{- define "metacore.podDisruptionBudget" -}}
{{- $root := index . 0 -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "metacore.fullname" $root }}-{{ index . 1 }}
  labels:
    {{- include "metacore.labels" (list $root (index . 1)) | nindent 4 }}
spec:
  maxUnavailable: {{ index . 2 }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "metacore.selector" (list $root (index . 1)) | nindent 6 }}
{{- end -}}

{{/* The head of a NetworkPolicy for the pods of one component. Given (list root component). */}}
{{- define "metacore.networkPolicyHead" -}}
{{- $root := first . -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "metacore.fullname" $root }}-{{ last . }}
  labels:
    {{- include "metacore.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "metacore.selector" . | nindent 6 }}
{{- end -}}

{{/* Name service, wherever it runs: in the cluster, or beside the kubelet. */}}
{{- define "metacore.egressToNames" -}}
- ports:
    - protocol: UDP
      port: 53
    - protocol: TCP
      port: 53
{{- end -}}

{{- define "metacore.egressToDatabase" -}}
{{- if .Values.postgresql.enabled -}}
- to:
    - podSelector:
        matchLabels:
          {{- include "metacore.selector" (list . "postgresql") | nindent 10 }}
  ports:
    - protocol: TCP
      port: 5432
{{- else -}}
- ports:
    {{- range .Values.networkPolicy.databasePorts }}
    - protocol: TCP
      port: {{ . }}
    {{- end }}
  {{- with .Values.networkPolicy.databaseTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}
