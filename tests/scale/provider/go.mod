module tandem/tests/scale/provider

go 1.24

require (
	github.com/hashicorp/terraform-plugin-sdk/v2 v2.40.1
	google.golang.org/grpc v1.79.3
	google.golang.org/protobuf v1.36.11
)
