# What the pods may do in AWS: list the prefix, and read, write and delete below it. No key lies anywhere: the service account takes the role.
locals {
  release    = strcontains(var.name, "tandem") ? var.name : "${var.name}-tandem" # as the chart names its parts
  issuer     = regex("oidc-provider/(.+)$", var.oidc_provider_arn)[0]
  partition  = split(":", var.oidc_provider_arn)[1]
  bucket_arn = "arn:${local.partition}:s3:::${var.bucket.name}"
}

resource "aws_iam_role" "pods" {
  name = local.release
  tags = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRoleWithWebIdentity"
      Principal = { Federated = var.oidc_provider_arn }
      Condition = {
        StringEquals = {
          "${local.issuer}:aud" = "sts.amazonaws.com"
          "${local.issuer}:sub" = "system:serviceaccount:${var.release.namespace}:${local.release}"
        }
      }
    }]
  })
}

resource "aws_iam_role_policy" "data" {
  name = "data"
  role = aws_iam_role.pods.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat([
      {
        Effect    = "Allow"
        Action    = "s3:ListBucket"
        Resource  = local.bucket_arn
        Condition = { StringLike = { "s3:prefix" = ["${var.bucket.prefix}", "${var.bucket.prefix}/*"] } }
      },
      {
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
        Resource = "${local.bucket_arn}/${var.bucket.prefix}/*"
      },
      ], var.bucket.kms_key_arn == null ? [] : [{
        Effect   = "Allow"
        Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource = var.bucket.kms_key_arn
    }])
  })
}
